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
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from pipeline.concurrency import ahead
from pipeline.config.job import Limits
from pipeline.errors import DecodeError, FetchError, ItemError, SegmentError, StorageError
from pipeline.log import PassProgress
from pipeline.segmenter import Segmenter
from pipeline.storage import uris
from pipeline.storage.files import Files
from pipeline.types import Mask
from pipeline.video.check import check_written
from pipeline.video.draw import Draw
from pipeline.video.forms import Form
from pipeline.video.pictures import PictureWriter
from pipeline.video.reader import Facts, Frame, VideoReader
from pipeline.video.writer import VideoWriter

BATCH_BYTES = 64 * 2**20
"""Frames that go through the model together, at most. Up to six such batches are in memory."""

QUANTILE = 0.05
"""The quality of a video is the one that this share of its frames does not reach."""

Opener = Callable[[], BinaryIO]


class MaskedFrame(NamedTuple):
    """A frame with its mask (H, W) uint8 and the mask's quality."""

    frame: Frame
    mask: Mask
    quality: float


@dataclass(frozen=True)
class VideoResult:
    """What was written.

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
    source: str, target: str, form: Form, draw: Draw, load: Callable[[], Segmenter], files: Files, limits: Limits
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

    Raises:
        ItemError: The video cannot be read or cut out (``fetch``, ``decode``, ``segment``), or the result cannot be written or
            differs from what was written (``write``). Errors of the source name it.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        opened = opener(source, files, limits, stack)
        try:
            reader = stack.enter_context(VideoReader(opened(), limits))
            segmenter = load()
            with PassProgress(f"cutting out {source}", reader.facts.frames, "frames") as progress:
                masked = stack.enter_context(closing(segmented(reader, segmenter)))
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


def segmented(reader: VideoReader, segmenter: Segmenter) -> Generator[list[MaskedFrame]]:
    """Yield the frames with their masks, batch by batch. The next batch is decoded while the model works.

    Raises:
        ItemError: A frame cannot be decoded, or the model fails on it. The message names its time.
    """
    height, width = reader.facts.size
    size = max(1, min(segmenter.batch, BATCH_BYTES // (3 * height * width)))
    with closing(ahead(_batches(reader, size), wait=True)) as batches:
        for batch in batches:
            segments = segmenter.segment([frame.pixels for frame in batch], [None] * len(batch))
            masked = []
            for frame, segment in zip(batch, segments, strict=True):
                if isinstance(segment, ItemError):
                    raise SegmentError(f"at {float(frame.pts * reader.facts.time_base):.2f} s: {segment}") from segment
                masked.append(MaskedFrame(frame, segment.mask, segment.score.quality))
            yield masked


def _batches(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    batch: list[Frame] = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


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
