"""From signals to one score, and from masks and ground truth to metrics.

Knows calibration, intervals, ranking and drift. Plain NumPy; no storage, no models.

May import: ``imaging``, ``config`` and the modules at the root.
"""
