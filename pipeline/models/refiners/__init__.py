"""Refiners: recompute alpha at the image's own size inside the unknown region of the trimap.

``load`` builds the refiner that a recipe names.

May import: ``models`` and what it may import.
"""
