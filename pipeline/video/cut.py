"""Cut out one video: decode, segment, draw and encode, each in a thread of its own; frames stream through."""

from __future__ import annotations

import io
import secrets
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from pipeline.concurrency import ahead
from pipeline.config.job import Limits
from pipeline.errors import ConfigError, DecodeError, FetchError, SegmentError, StorageError
from pipeline.log import PassProgress
from pipeline.segmenter import Segmenter
from pipeline.storage import uris
from pipeline.storage.files import Files
from pipeline.types import Box
from pipeline.video.check import check_written
from pipeline.video.draw import Draw
from pipeline.video.forms import Form
from pipeline.video.pictures import PictureWriter
from pipeline.video.reader import Facts, VideoReader
from pipeline.video.steady import MaskedFrame, Steady
from pipeline.video.writer import VideoWriter

BATCH_BYTES = 64 * 2**20
"""Frames that go through the model together, at most. Up to six such batches are in memory."""

QUANTILE = 0.05
"""The quality of a video is the one that this share of its frames does not reach."""

Opener = Callable[[], BinaryIO]


@dataclass(frozen=True)
class VideoResult:
    """Facts of the written video.

    Attributes:
        facts: Of the source.
        frames: Number of frames.
        seconds: Their duration.
        quality: 5 % quantile of the frames' quality.
        notes: What differs from the source, a sentence each.
        took_s: Seconds of work.
    """

    facts: Facts
    frames: int
    seconds: float
    quality: float
    notes: tuple[str, ...]
    took_s: float


def cut_video(
    source: str,
    target: str,
    form: Form,
    draw: Draw,
    load: Callable[[], Segmenter],
    files: Files,
    limits: Limits,
    box: Box | None = None,
) -> VideoResult:
    """Cut out a video and write it. The file appears under its name when it is whole, and was read back and compared.

    Args:
        source: Path or URI.
        target: Path or URI of the file; of a folder for a form of pictures.
        form: What to write.
        draw: How frames look.
        load: Returns the segmenter. Called when the video was opened.
        files: Access to storage.
        limits: Limits of the video.
        box: Around the object in the first frame, in pixels of the upright frame. Default: the object that the model finds.

    Raises:
        ItemError: The video cannot be read or cut out (``fetch``, ``decode``, ``segment``; ``item``: the box), or the result
            cannot be written or differs from what was written (``write``). Errors of the source name it.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        opened = opener(source, files, limits, stack)
        try:
            reader = stack.enter_context(VideoReader(opened(), limits))
            segmenter = load()
            with PassProgress(f"cutting out {source}", reader.facts.frames, "frames") as progress:
                masked = stack.enter_context(closing(segmented(reader, segmenter, box)))
                counted = _Counted(stack.enter_context(closing(ahead(masked, wait=True))), progress)
                notes = _write(counted, reader.facts, target, form, draw, opened, files)
        except DecodeError as error:
            raise DecodeError(f"{source}: {error}") from error.__cause__
        except SegmentError as error:
            raise SegmentError(f"{source}: {error}") from error.__cause__
    quality = float(np.quantile(counted.qualities, QUANTILE))
    return VideoResult(
        reader.facts, len(counted.qualities), counted.seconds(reader.facts), quality, notes, time.monotonic() - began
    )


def opener(uri: str, files: Files, limits: Limits, stack: ExitStack) -> Opener:
    """Return a function that opens a video, as often as it is called. The stack closes the files.

    Raises:
        FetchError: The function's: the video cannot be opened.
    """

    def opened() -> BinaryIO:
        if uris.scheme(uri) in uris.HTTP_SCHEMES:
            return io.BytesIO(files.read(uri, max_bytes=limits.max_bytes))
        try:
            if not uris.scheme(uri):
                return stack.enter_context(Path(files.absolute(uri)).open("rb"))
            return cast(BinaryIO, stack.enter_context(files.open_input(uri)))
        except IsADirectoryError:
            raise FetchError(f"{uri}: it is a folder; give a video") from None
        except FileNotFoundError:
            raise FetchError(f"{uri}: it does not exist") from None
        except (OSError, StorageError) as error:
            raise FetchError(f"{uri}: it can't be read: {error}") from error

    return opened


def segmented(reader: VideoReader, segmenter: Segmenter, box: Box | None) -> Generator[list[MaskedFrame]]:
    """Yield the frames with their masks, batch by batch. The next batch is decoded while the model works.

    Args:
        reader: The video.
        segmenter: The model.
        box: Around the object in the first frame.

    Raises:
        ItemError: A frame cannot be decoded, the box is outside, or the model fails on a frame. The message names its time.
        ConfigError: The recipe has a second model.
    """
    if segmenter.second is not None:  # two models would take turns, and the edge would jump
        raise ConfigError("recipe.second is for pictures; one model cuts out all frames of a video, so remove it")
    height, width = reader.facts.size
    size = max(1, min(segmenter.batch, BATCH_BYTES // (3 * height * width)))
    if box is not None:
        box.check_inside(reader.facts.size)
    steady = Steady(segmenter, reader.facts.time_base, box, segmenter.recipe.every)
    with closing(ahead(steady.windows(reader, size), wait=True)) as windows:
        for window in windows:
            yield steady(window)


class _Counted:
    """Frames that are counted as they are taken."""

    def __init__(self, batches: Iterable[list[MaskedFrame]], progress: PassProgress) -> None:
        self._batches, self._progress = batches, progress
        self.qualities: list[float] = []
        self._times = (0, 0, 0)

    def __iter__(self) -> Iterator[MaskedFrame]:
        for one in chain.from_iterable(self._batches):
            first = one.frame.pts if not self.qualities else self._times[0]
            self._times = (first, one.frame.pts, one.frame.duration)
            self.qualities.append(one.quality)
            yield one
            self._progress.add(1)

    def seconds(self, facts: Facts) -> float:
        """Return the duration: from the first frame to the end of the last."""
        first, last, duration = self._times
        return float((last - first) * facts.time_base) + float(duration * facts.time_base if duration else 1 / facts.rate)


def _write(
    frames: Iterable[MaskedFrame], facts: Facts, target: str, form: Form, draw: Draw, opened: Opener, files: Files
) -> tuple[str, ...]:
    """Write the frames, and return what differs from the source."""
    if not form.container:
        pictures = PictureWriter(files.absolute(target), facts, files)
        for one in frames:
            pictures.add(draw(one.frame.pixels, one.mask), one.frame.pts)
        pictures.finish()
        return ("a folder of pictures has no sound",) if facts.sound else ()
    absolute = files.absolute(target)
    with ExitStack() as stack:
        if uris.scheme(absolute):
            part = Path(stack.enter_context(tempfile.TemporaryDirectory())) / f"video{form.suffix}"
        else:
            final = Path(absolute)
            final.parent.mkdir(parents=True, exist_ok=True)
            part = final.with_name(f".{final.name[:80]}.{secrets.token_hex(8)}.tmp")
            stack.callback(part.unlink, missing_ok=True)
        sound = opened() if facts.sound else None
        with VideoWriter(part, form, facts, clear=draw.clear, sound=sound) as writer:
            for one in frames:
                writer.add(draw(one.frame.pixels, one.mask), one.frame.pts, one.frame.duration)
            written = writer.finish()
        check_written(part, written)
        if uris.scheme(absolute):
            files.upload(absolute, part)
        else:
            part.replace(absolute)
    return tuple(writer.notes)
