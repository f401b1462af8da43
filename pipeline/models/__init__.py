"""Tensors to tensors: networks, inference engines, refiners, and the signals behind the quality score.

``resolve`` pins what a recipe names, ``load`` makes a model of it.

May import: ``quality``, ``imaging``, ``storage``, ``config`` and the modules at the root.
"""
