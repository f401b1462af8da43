"""Pixels to pixels: decode, frame, foreground colours, encode, validate, renditions.

Knows NumPy, Pillow and OpenCV. No storage, no models.

May import: ``config`` and the modules at the root.
"""
