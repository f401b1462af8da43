"""What was done: layout, index, lease, run records, progress, verification, garbage collection, data sets.

The exactly-once guarantees are kept here.

May import: ``manifest``, ``quality``, ``imaging``, ``storage``, ``config`` and the modules at the root.
"""
