"""Masks against ground truth: metrics per item, tables with intervals, calibration.

Runs over Ray Data as the main job does.

May import: ``run``, ``output``, ``quality`` and what they may import.
"""
