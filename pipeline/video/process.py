"""Process one video of a run: read it, cut it out, write its files, and describe them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, Protocol

import av

from pipeline.concurrency import ahead
from pipeline.config.job import Limits
from pipeline.config.recipe import Recipe
from pipeline.errors import DecodeError
from pipeline.manifest.videos import Part
from pipeline.models.detectors.detector import Detection
from pipeline.segmenter import Segmenter
from pipeline.storage.files import Files
from pipeline.types import Box, Size
from pipeline.video.cut import part_of, store
from pipeline.video.draw import Draw, behind
from pipeline.video.forms import FORMS, MP4, Form
from pipeline.video.masked import segmented
from pipeline.video.named import with_first
from pipeline.video.reader import Facts, VideoReader
from pipeline.video.segments import SegmentStore, frames_per_segment
from pipeline.video.source import Source
from pipeline.video.span import frames_again, frames_in, span_of
from pipeline.video.steady import MaskedFrame
from pipeline.video.tally import SegmentFacts, Tally
from pipeline.video.targets import Target, write_targets


class Clock(Protocol):
    """The deadline of the work."""

    def beat(self) -> None:
        """Start it anew: the work has come further."""

    def rest(self) -> None:
        """Set none until the next beat: the step has a timeout of its own."""

    def kept(self) -> None:
        """Note that a part of the work needs not be repeated after a crash."""


@dataclass(frozen=True)
class Request:
    """The request of a manifest's row.

    Attributes:
        uri: Path or URI.
        part: The part that is cut out.
        box: Around the object in the first frame.
        names: Names of the object, which is looked for if there is no box.
        targets: Absolute paths or URIs of its files, by their names in ``recipe.videos``.
        segments: Folder for the masks of finished segments.
    """

    uri: str
    part: Part
    box: Box | None
    names: tuple[str, ...]
    targets: Mapping[str, str]
    segments: str


class Original(NamedTuple):
    """A video that was read: SHA-256, size in bytes, version, and how long reading it took."""

    sha256: str
    bytes: int
    version: str | None
    fetch_s: float


class Described(NamedTuple):
    """The index columns that describe a processed video."""

    size: Size
    detection: Detection | None
    quality: float
    reasons: tuple[str, ...]
    facts: dict[str, Any]
    segments: list[SegmentFacts]
    """Empty for a video of one segment, which the index row describes."""


def fetch(request: Request, files: Files, limits: Limits, stack: ExitStack, clock: Clock) -> tuple[Source, Original]:
    """Open a video and read it once. The stack closes it.

    Raises:
        FetchError: It cannot be read.
    """
    began = time.perf_counter()
    clock.rest()
    source = stack.enter_context(Source(request.uri, files, limits))
    sha256, size = source.digest()
    version = source.version()
    clock.beat()
    return source, Original(sha256, size, version or None, time.perf_counter() - began)


def process(
    source: Source,
    original: Original,
    request: Request,
    recipe: Recipe,
    backgrounds: Mapping[str, bytes],
    segmenter: Segmenter,
    files: Files,
    limits: Limits,
    clock: Clock,
    before_store: Callable[[], None],
    on_frame: Callable[[], None] = lambda: None,
) -> Described:
    """Cut out a video and write its files, which appear when all of them are whole and were read back.

    Args:
        source: The video.
        original: Its content, on which kept segments depend.
        request: The part, the object and the files.
        recipe: How its files look.
        backgrounds: Pictures, by SHA-256.
        segmenter: The model.
        files: Access to storage.
        limits: Limits of the video.
        clock: Its deadline.
        before_store: Called before the first file gets its name.
        on_frame: Called for every frame that was written to all files.

    Raises:
        ItemError: It failed.
    """
    with ExitStack() as stack, refused_by_ffmpeg():
        reader = stack.enter_context(VideoReader(source.open(), limits, clock.beat))
        span = span_of(request.part, reader.facts)
        frames, found = frames_in(reader, span), None
        if request.box is None and request.names:
            again = partial(frames_again, source, span, limits, clock.beat)
            frames, found = with_first(frames, again, reader.facts, request.names, segmenter)
        targets = {
            name: Target(stack.enter_context(part_of(uri)), *_form_of(name, recipe, backgrounds))
            for name, uri in request.targets.items()
        }
        finished = segments_of(original.version or original.sha256, reader.facts.size, request, recipe, files)
        named = found and found.named
        asked = segmented(frames, reader.facts, segmenter, request.box, finished, clock.kept, named=named)
        masked = stack.enter_context(closing(asked))
        batches = stack.enter_context(closing(ahead(masked, wait=True)))
        tally = Tally(reader.facts, frames_per_segment(reader.facts.size))
        passing = tally.passing(chain.from_iterable(batches))
        write_targets(_told(passing, on_frame), reader.facts, list(targets.values()), source.open, span, clock.beat)
        clock.rest()
        before_store()
        written = {name: files.digest(str(one.path)) for name, one in targets.items()}
        for name, one in targets.items():
            store(one.path, request.targets[name], files)
        clock.beat()
    described = [_describe(name, one, *written[name]) for name, one in targets.items()]
    notes = () if found is None else found.notes
    facts = _facts(reader.facts, tally, list(targets.values()), notes) | {"files": described}
    detection = None if found is None else found.detection
    return Described(reader.facts.size, detection, tally.quality, tally.reasons, facts, tally.segments)


def _told(frames: Iterator[MaskedFrame], on_frame: Callable[[], None]) -> Iterator[MaskedFrame]:
    for one in frames:
        yield one
        on_frame()


def segments_of(version: str, size: Size, request: Request, recipe: Recipe, files: Files) -> SegmentStore:
    """Return the kept segments of a video in this version, with frames of this size."""
    asked = (version, request.part, request.box, request.names, recipe.fingerprint(), frames_per_segment(size))
    return SegmentStore.of(request.segments, files, asked)


@contextmanager
def refused_by_ffmpeg() -> Iterator[None]:
    """Translate what FFmpeg refuses outside of the places where that is expected: files come from strangers.

    Raises:
        DecodeError: It refused something.
    """
    try:
        yield
    except av.error.FFmpegError as error:
        raise DecodeError(f"FFmpeg refuses this video: {error.strerror}") from error


def _form_of(name: str, recipe: Recipe, backgrounds: Mapping[str, bytes]) -> tuple[Form, Draw]:
    if name == "mask":
        return MP4, Draw("mask")
    form = FORMS[name]
    return form, Draw("cutout" if form.clear else "filled", recipe.foreground, behind(recipe, backgrounds))


def _describe(name: str, target: Target, sha256: str, size: int) -> dict[str, Any]:
    height, width = target.size
    return {"name": name, "bytes": size, "sha256": sha256, "height": height, "width": width, "codec": target.form.encoder}


def _facts(source: Facts, tally: Tally, targets: list[Target], notes: Sequence[str]) -> dict[str, Any]:
    return {
        "frames": tally.frames,
        "seconds": tally.seconds,
        "codec": source.codec,
        "sound": list(source.sound),
        "flicker": tally.flicker,
        "worst": [one._asdict() for one in tally.worst],
        "notes": list(dict.fromkeys([*notes, *(note for one in targets for note in one.notes)])),
    }
