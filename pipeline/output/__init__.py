"""The results of a recipe: layout, index, lease, run records, progress, status, verification, garbage collection.

The exactly-once guarantees are implemented here; see ``README.md``.

May import: ``manifest``, ``quality``, ``imaging``, ``storage``, ``config`` and the modules at the root.
"""
