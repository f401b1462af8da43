"""Pixels: bytes to image, image to model frame and back, colours of the foreground, PNG bytes."""
