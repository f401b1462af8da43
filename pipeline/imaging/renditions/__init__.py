"""Render further files per item from its mask and cutout, as a shop or a data set needs them.

``render`` is the entry point. Each of the other modules does one step.

May import: ``imaging``, ``config`` and the modules at the root.
"""
