"""Process one video of a run: read it, cut it out, write its files, and describe them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from pipeline.config.job import Limits
from pipeline.config.recipe import Recipe
from pipeline.manifest.videos import Part
from pipeline.models.detectors.detector import Detection
from pipeline.segmenter import Segmenter
from pipeline.storage.files import Files
from pipeline.types import Box, Size
from pipeline.video.cut import part_of, store
from pipeline.video.draw import Draw, behind
from pipeline.video.failures import as_item_errors
from pipeline.video.forms import FORMS, MP4, Form
from pipeline.video.matroska import check_structure
from pipeline.video.passing import passing
from pipeline.video.reader import Facts, VideoReader
from pipeline.video.segments import SegmentStore, frames_per_segment
from pipeline.video.source import Source
from pipeline.video.span import frames_expected, span_of
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
        """Note that a part of the work need not be repeated after a crash."""


class Counter(Protocol):
    """Counts frames."""

    def expect(self, frames: int) -> None:
        """Note how many there will be, about; 0: unknown."""

    def add(self) -> None:
        """Note that one was written to all files."""


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
    counter: Counter,
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
        counter: Counts the frames.

    Raises:
        ItemError: It failed.
    """
    with ExitStack() as stack, as_item_errors():
        check_structure(source.open(), clock.beat)
        reader = stack.enter_context(VideoReader(source.open(), limits, clock.beat))
        facts, span = reader.facts, span_of(request.part, reader.facts)
        counter.expect(frames_expected(facts, request.part, limits))
        targets = {
            name: Target(stack.enter_context(part_of(uri)), *_form_of(name, recipe, backgrounds))
            for name, uri in request.targets.items()
        }
        kept = segments_of(original.version or original.sha256, facts.size, request, recipe, files)
        frames, tally, found = stack.enter_context(
            passing(source, reader, span, segmenter, request.box, request.names, store=kept, kept=clock.kept, beat=clock.beat)
        )
        write_targets(_counted(frames, counter), facts, list(targets.values()), source.open, limits, span, clock.beat)
        clock.rest()
        before_store()
        stored = _store(targets, request, files)
        clock.beat()
    made = _facts(facts, tally, list(targets.values()), found.notes if found else ()) | {"files": stored}
    return Described(facts.size, found and found.detection, tally.quality, tally.reasons, made, tally.segments)


def _counted(frames: Iterator[MaskedFrame], counter: Counter) -> Iterator[MaskedFrame]:
    for one in frames:
        yield one
        counter.add()


def segments_of(version: str, size: Size, request: Request, recipe: Recipe, files: Files) -> SegmentStore:
    """Return the kept segments of a video in this version, with frames of this size."""
    asked = (version, request.part, request.box, request.names, recipe.fingerprint(), frames_per_segment(size))
    return SegmentStore.of(request.segments, files, asked)


def _form_of(name: str, recipe: Recipe, backgrounds: Mapping[str, bytes]) -> tuple[Form, Draw]:
    if name == "mask":
        return MP4, Draw("mask")
    form = FORMS[name]
    return form, Draw("cutout" if form.clear else "filled", recipe.foreground, behind(recipe, backgrounds))


def _store(targets: Mapping[str, Target], request: Request, files: Files) -> list[dict[str, Any]]:
    """Give the files their names, and describe them.

    Raises:
        WriteError: One cannot be written.
    """
    described = [_describe(name, one, *files.digest(str(one.path))) for name, one in targets.items()]
    for name, one in targets.items():
        store(one.path, request.targets[name], files)
    return described


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
