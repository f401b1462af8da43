"""One more file per item, made from its mask and cutout as a shop or data set wants it.

``render`` is the entry; the other modules each do one step.

May import: ``imaging``, ``config`` and the modules at the root.
"""
