"""Read manifests: tables of items with boxes and tags; and build them from folders, COCO and data sets. See README.md here.

Turns untrusted rows into checked items, and provides the id sets that detect duplicates.

May import: ``storage``, ``imaging``, ``config`` and the modules at the root.
"""
