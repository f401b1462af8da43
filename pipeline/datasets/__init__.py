"""Outputs as data sets that other tools read: COCO, YOLO, palette PNGs, folders and Parquet for Hugging Face.

The forms are described in ``README.md``.

May import: ``output``, ``manifest``, ``imaging``, ``storage``, ``config`` and the modules at the root.
"""
