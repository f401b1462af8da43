"""Detectors: names of objects to boxes.

``finder`` finds the boxes for a recipe. ``files`` fetches a detector's files, ``load`` loads it, ``nanodet`` and ``zero_shot``
run it, and ``detector`` chooses among its boxes.

May import: ``config``, ``storage``, ``imaging`` and the rest of ``models``.
``zero_shot`` alone imports PyTorch and transformers.
"""
