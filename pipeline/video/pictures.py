"""Write a video as a folder of numbered PNG files, with a file of their times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.errors import WriteError
from pipeline.imaging.png import encode_cutout, encode_picture
from pipeline.storage.files import Files
from pipeline.storage.uris import join
from pipeline.video.reader import Facts

TIMES = "timestamps.txt"
"""File of times in the format v2 of mkvmerge: a line per frame, in milliseconds. Written last."""


class PictureWriter:
    """Writes frames as ``000000.png``, ``000001.png`` and so on.

    Args:
        folder: Absolute path or URI. It must be new or empty, because frames of another video would mix with these.
        facts: The source's.
        files: Access to storage.

    Raises:
        WriteError: The folder has files.
    """

    def __init__(self, folder: str, facts: Facts, files: Files) -> None:
        if next(iter(files.list(folder)), None) is not None:
            raise WriteError(f"{folder} is not empty; give a new folder for the pictures")
        self.folder, self.facts, self.files = folder, facts, files
        self._seconds: list[float] = []

    def add(self, pixels: npt.NDArray[np.uint8], pts: int) -> None:
        """Write a frame, (H, W, 4) RGBA or (H, W, 3) RGB uint8.

        Raises:
            WriteError: It could not be written.
        """
        self.files.write(join(self.folder, f"{len(self._seconds):06}.png"), encode_frame(pixels))
        self._seconds.append(float(pts * self.facts.time_base))

    def finish(self) -> None:
        """Write the file of times.

        Raises:
            WriteError: It could not be written.
        """
        self.files.write(join(self.folder, TIMES), times_file(self._seconds))


def encode_frame(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return a frame, (H, W, 4) RGBA or (H, W, 3) RGB uint8, as a PNG file."""
    colours = np.ascontiguousarray(pixels[..., :3])
    return encode_cutout(colours, np.ascontiguousarray(pixels[..., 3])) if pixels.shape[2] == 4 else encode_picture(colours)


def times_file(seconds: Sequence[float]) -> bytes:
    """Return the file of times."""
    lines = ["# timestamp format v2", *(f"{1000 * one:.3f}" for one in seconds), ""]
    return "\n".join(lines).encode()
