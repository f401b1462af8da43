"""Combine signals into one score, and compare masks with ground truth.

Holds calibration, intervals, ranking and drift. Uses NumPy and OpenCV. Neither storage nor models. See ``README.md``.

May import: ``imaging``, ``config`` and the modules at the root.
"""
