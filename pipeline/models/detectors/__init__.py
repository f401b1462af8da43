"""Detectors: names of objects to boxes. ``files`` fetches a detector's files, ``load`` loads it, ``zero_shot`` runs it.

May import: ``config``, ``storage``, ``imaging`` and the rest of ``models``.
``zero_shot`` alone imports PyTorch and transformers.
"""
