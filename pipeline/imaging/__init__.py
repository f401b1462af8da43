"""Pixels to pixels: decode, frame, foreground colours, encode, validate, renditions.

Uses NumPy, Pillow and OpenCV. Neither storage nor models.

May import: ``config`` and the modules at the root.
"""
