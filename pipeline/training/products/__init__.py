"""Render synthetic product photos with exact alpha, to train on what product shops and shelves show. See ``scene.py``.

``scene`` arranges products (``boxes``, ``rounds``, ``pouches``, ``produce``), which ``prints`` covers, on ``grounds``, on
``shelves`` or in ``hands``. Each part is drawn at twice its size and shrunk, so alpha is the covered share of a pixel.

May import: ``training.material``, ``training.crops`` and what they may import.
"""
