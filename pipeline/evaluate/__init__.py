"""Measure masks against ground truth: metrics per item, tables with intervals, calibration. See ``README.md`` in this folder.

May import: ``run``, ``output``, ``quality``, ``review`` and what they may import.
"""
