"""Write a video as a folder of numbered PNG files, with a file of their times."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import DecodeError, FetchError, StorageError, WriteError
from pipeline.imaging.decode import decode
from pipeline.imaging.png import encode_cutout, encode_mask, encode_picture
from pipeline.imaging.validate import NO_LIMITS, decode_cutout, decode_mask
from pipeline.storage import uris
from pipeline.storage.files import Files
from pipeline.storage.uris import join
from pipeline.video.reader import Facts

TIMES = "timestamps.txt"
"""File of times in the format v2 of mkvmerge: a line per frame, in milliseconds. Written last."""


RGBA = 4
"""Channels of a frame with transparency."""


class PictureWriter:
    """Writes frames as ``000000.png``, ``000001.png`` and so on. Use as a context manager: ``add`` each frame, then ``finish``.

    On a disk they are written into a hidden folder beside the wanted one, which gets its name when it is whole. On a store, the
    file of times is written when all pictures were read back.

    Args:
        folder: Absolute path or URI. It must be new or empty, because frames of another video would mix with these.
        facts: The source's.
        files: Access to storage.
        grey: Frames are masks in grey, and are written with 8 bits per pixel.

    Raises:
        WriteError: The folder has files.
    """

    def __init__(self, folder: str, facts: Facts, files: Files, *, grey: bool = False) -> None:
        if next(iter(files.list(folder)), None) is not None:
            raise WriteError(f"{folder} is not empty; give a new folder for the pictures")
        self.folder, self.facts, self.files, self.grey = folder, facts, files, grey
        self._part = folder
        if not uris.scheme(folder):
            final = Path(folder)
            self._part = str(final.with_name(f".{final.name[:80]}.{secrets.token_hex(8)}.tmp"))
        self._seconds: list[float] = []
        self._digests: list[tuple[int, bytes]] = []

    def __enter__(self) -> PictureWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._part != self.folder:
            shutil.rmtree(self._part, ignore_errors=True)  # after finish, it is not there any more

    def add(self, pixels: npt.NDArray[np.uint8], pts: int) -> None:
        """Write a frame, (H, W, 4) RGBA or (H, W, 3) RGB uint8.

        Raises:
            WriteError: It could not be written.
        """
        shown = np.ascontiguousarray(pixels[..., 0]) if self.grey else pixels
        if shown.shape[2:] == (RGBA,):
            shown = np.where(shown[..., 3:] == 0, np.uint8(0), shown)  # a PNG's transparent pixels are black
        self.files.write(self._uri(len(self._seconds)), encode_mask(shown) if self.grey else encode_frame(pixels))
        self._seconds.append(float(pts * self.facts.time_base))
        self._digests.append((1 if self.grey else pixels.shape[2], _digest(shown)))

    def finish(self) -> None:
        """Read the pictures back, write the file of times, and give the folder its name.

        Raises:
            WriteError: It could not be written, or a picture differs from what was written.
        """
        for number, (channels, wanted) in enumerate(self._digests):
            try:
                data = self.files.read(self._uri(number))
                found = _digest(_decoded(data, channels))
            except (FetchError, DecodeError, StorageError) as error:
                raise WriteError(f"frame {number} of the written pictures can't be read back: {error}") from error
            if found != wanted:
                raise WriteError(f"frame {number} of the written pictures differs from what was written")
        self.files.write(join(self._part, TIMES), times_file(self._seconds))
        if self._part != self.folder:
            try:
                Path(self._part).replace(self.folder)
            except OSError as error:
                raise WriteError(
                    f"{self.folder} can't be written: {error.strerror}; give a new folder for the pictures"
                ) from error

    def _uri(self, number: int) -> str:
        return join(self._part, name_of(number))


def name_of(number: int) -> str:
    """Return the name of a frame's file."""
    return f"{number:06}.png"


def _decoded(data: bytes, channels: int) -> npt.NDArray[np.uint8]:
    """Return a written picture as it was given: (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA, uint8.

    Raises:
        DecodeError: It is damaged.
    """
    if channels == RGBA:
        return np.dstack(decode_cutout(data))
    return decode_mask(data) if channels == 1 else decode(data, NO_LIMITS)


def _digest(pixels: npt.NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes(), digest_size=16).digest()


def encode_frame(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return a frame, (H, W, 4) RGBA or (H, W, 3) RGB uint8, as a PNG file."""
    colours = np.ascontiguousarray(pixels[..., :3])
    return encode_cutout(colours, np.ascontiguousarray(pixels[..., 3])) if pixels.shape[2] == 4 else encode_picture(colours)


def times_file(seconds: Sequence[float]) -> bytes:
    """Return the file of times."""
    lines = ["# timestamp format v2", *(f"{1000 * one:.3f}" for one in seconds), ""]
    return "\n".join(lines).encode()
