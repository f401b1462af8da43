"""Write the frames of a video as PNG files in a ZIP archive, which is one file wherever it is stored."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.errors import DecodeError, WriteError
from pipeline.imaging.validate import decode_cutout
from pipeline.types import Size
from pipeline.video.check import ALPHA_TOLERANCE
from pipeline.video.pictures import TIMES, encode_frame, name_of, times_file
from pipeline.video.reader import Facts
from pipeline.video.writer import Written


class ArchiveWriter:
    """Writes ``000000.png``, ``000001.png`` and so on, and the file of their times. Use as ``VideoWriter``.

    Args:
        path: The archive. PNG files are compressed already, so it is not.
        facts: The source's.

    Raises:
        WriteError: It cannot be created.
    """

    def __init__(self, path: Path, facts: Facts) -> None:
        self.facts = facts
        self.notes = ["an archive of pictures has no sound"] if facts.sound else []
        self._written = Written(facts.size, alpha=[])
        with _as_write_errors():
            self._archive = zipfile.ZipFile(path, "w")

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):  # what is left of it is deleted, and nothing may hide why
            self._archive.close()

    def add(self, pixels: npt.NDArray[np.uint8], pts: int, duration: int) -> None:
        """Write a frame, (H, W, 4) RGBA uint8.

        Raises:
            WriteError: It could not be written.
        """
        assert self._written.alpha is not None
        self._write(name_of(len(self._written.seconds)), encode_frame(pixels))
        self._written.seconds.append(float(pts * self.facts.time_base))
        self._written.alpha.append(float(pixels[..., 3].mean()))

    def finish(self) -> Written:
        """Write the file of times and the end of the archive.

        Raises:
            WriteError: It could not be written.
        """
        self._write(TIMES, times_file(self._written.seconds))
        with _as_write_errors():
            self._archive.close()
        return self._written

    def _write(self, name: str, data: bytes) -> None:
        with _as_write_errors():
            self._archive.writestr(name, data)


@contextmanager
def _as_write_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(f"the archive can't be written: {error.strerror}") from error


def check_archive(path: Path, written: Written, beat: Callable[[], None]) -> None:
    """Compare the frames of a written archive: their number, sizes, times and alpha.

    Raises:
        WriteError: They differ, or it cannot be read. The message says where.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise WriteError(f"the written archive can't be read back: {error.strerror}") from error
    with file:
        if wrong := archive_error(file, len(written.seconds), written.size, written.alpha or (), beat):
            raise WriteError(f"the written archive differs: {wrong}")


def archive_error(
    file: BinaryIO,
    frames: int,
    size: Size,
    alpha: list[float] | tuple[()] = (),
    beat: Callable[[], None] = lambda: None,
) -> str | None:
    """Say what is wrong with an archive that should have so many frames of this size; None if it is valid.

    Args:
        file: The archive.
        frames: Number of frames.
        size: Their size.
        alpha: The mean alpha of each, 0 to 255; empty if it is not known.
        beat: Called for every frame.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = [*map(name_of, range(frames)), TIMES]
            if archive.namelist() != names:
                return f"it has {len(archive.namelist())} files instead of {len(names)}"
            for number, name in enumerate(names[:-1]):
                beat()
                colours, mask = decode_cutout(archive.read(name))
                if colours.shape[:2] != size:
                    return f"{name} has {colours.shape[1]} x {colours.shape[0]} pixels instead of {size.width} x {size.height}"
                if alpha and abs(float(mask.mean()) - alpha[number]) > ALPHA_TOLERANCE:
                    return f"{name} has a mean alpha of {mask.mean():.1f} instead of {alpha[number]:.1f}"
            lines = archive.read(TIMES).splitlines()
    except (zipfile.BadZipFile, DecodeError, OSError, ValueError) as error:
        return f"it can't be read: {error}"
    return None if len(lines) - 1 == frames else f"{TIMES} has {len(lines) - 1} times instead of {frames}"
