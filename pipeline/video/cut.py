"""Cut out one video: decode, segment, draw and encode, each in a thread of its own; frames stream through."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.config.job import Limits
from pipeline.errors import DecodeError, PromptError, SegmentError, WriteError
from pipeline.log import PassProgress
from pipeline.manifest.videos import Part
from pipeline.segmenter import Segmenter
from pipeline.storage import uris
from pipeline.storage.errors import describe_error
from pipeline.storage.files import Files
from pipeline.types import Box
from pipeline.video.draw import Draw
from pipeline.video.failures import as_item_errors
from pipeline.video.forms import Form
from pipeline.video.matroska import check_structure
from pipeline.video.passing import passing
from pipeline.video.pictures import PictureWriter
from pipeline.video.reader import Facts, VideoReader
from pipeline.video.source import Source
from pipeline.video.span import Span, frames_expected, span_of
from pipeline.video.steady import MaskedFrame
from pipeline.video.targets import Target, write_targets

WHOLE = Part()


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
    names: tuple[str, ...] = (),
    part: Part = WHOLE,
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
        names: Names of the object, which is looked for if there is no box.
        part: The part that is cut out.

    Raises:
        ItemError: The video cannot be read or cut out (``fetch``, ``decode``, ``segment``; ``item``: the box;
            ``prompt``: nothing of that name), or the result
            cannot be written or differs from what was written (``write``). Errors of the source name it.
    """
    began = time.monotonic()
    with ExitStack() as stack, _naming(source), as_item_errors():
        video = stack.enter_context(Source(source, files, limits))
        check_structure(video.open())
        reader = stack.enter_context(VideoReader(video.open(), limits))
        facts, segmenter = reader.facts, load()
        with PassProgress(f"cutting out {source}", frames_expected(facts, part, limits), "frames") as progress:
            span = span_of(part, facts)
            frames, tally, found = stack.enter_context(passing(video, reader, span, segmenter, box, names))
            notes = found.notes if found else ()
            notes += _write(progress.counting(frames), reader, target, form, draw, video, files, span)
    return VideoResult(facts, tally.frames, tally.seconds, tally.quality, notes, time.monotonic() - began)


@contextmanager
def _naming(source: str) -> Iterator[None]:
    """Name the source in errors that are about it."""
    try:
        yield
    except (DecodeError, SegmentError, PromptError) as error:
        raise type(error)(f"{source}: {error}") from error.__cause__


def _write(
    frames: Iterable[MaskedFrame],
    reader: VideoReader,
    target: str,
    form: Form,
    draw: Draw,
    source: Source,
    files: Files,
    span: Span,
) -> tuple[str, ...]:
    """Write the frames, and return what differs from the source."""
    facts = reader.facts
    if not form.container:
        with PictureWriter(files.absolute(target), facts, files, grey=draw.look == "mask") as pictures:
            for one in frames:
                pictures.add(draw(one.frame.pixels, one.mask, facts.aspect), one.frame.pts)
            pictures.finish()
        return ("a folder of pictures has no sound",) if facts.sound else ()
    with part_of(files.absolute(target)) as part:
        one_file = Target(part, form, draw)
        write_targets(frames, facts, [one_file], source.open, reader.limits, span)
        store(part, files.absolute(target), files)
    return tuple(one_file.notes)


@contextmanager
def part_of(uri: str) -> Iterator[Path]:
    """Return the path of a file to write before it gets its name: beside it, or of one on a store, in a temporary folder.

    Raises:
        WriteError: Its folder cannot be created.
    """
    with ExitStack() as stack:
        try:
            if uris.scheme(uri):
                scratch = tempfile.TemporaryDirectory(prefix="matteline-", ignore_cleanup_errors=True)
                part = Path(stack.enter_context(scratch)) / f"video{PurePosixPath(uri).suffix}"
            else:
                final = Path(uri)
                final.parent.mkdir(parents=True, exist_ok=True)
                part = final.with_name(f".{final.name[:80]}.{secrets.token_hex(8)}.tmp")
                stack.callback(_forget, part)
        except OSError as error:
            raise WriteError(describe_error(error, uri)) from error
        yield part


def _forget(part: Path) -> None:
    with suppress(OSError):  # nothing may hide why it was not finished
        part.unlink(missing_ok=True)


def store(part: Path, uri: str, files: Files) -> None:
    """Give a complete file its name.

    Raises:
        WriteError: It cannot be written.
    """
    if uris.scheme(uri):
        files.upload(uri, part)
        return
    try:
        part.replace(uri)
    except OSError as error:
        raise WriteError(f"{uri} can't be written: {error.strerror}") from error
