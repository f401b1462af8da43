"""What is to be done: tables of items, boxes and tags, and the tools that build manifests.

Turns rows of strangers into checked items; knows the id sets that tell items apart.

May import: ``storage``, ``imaging``, ``config`` and the modules at the root.
"""
