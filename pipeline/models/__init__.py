"""Tensors to tensors: networks, inference engines, refiners, and the signals behind the quality score.

``resolve`` fetches and pins the files of a recipe, ``load`` builds its model. See ``README.md``.

May import: ``quality``, ``imaging``, ``storage``, ``config`` and the modules at the root.
"""
