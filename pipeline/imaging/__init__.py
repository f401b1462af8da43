"""Pixels: bytes to image, image to model frame and back, colours of the foreground, PNG bytes."""

from PIL import Image

# Of the memory that images give back, 64 MiB stay for the next one: to get it anew takes as long as half the decoding.
Image.core.set_blocks_max(4)  # type: ignore[attr-defined]
