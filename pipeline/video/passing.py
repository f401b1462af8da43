"""Lead the frames of a video from the reader through the model. Decoding, the model and the caller work side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain
from typing import NamedTuple

from pipeline.concurrency import ahead
from pipeline.segmenter import Segmenter
from pipeline.types import Box
from pipeline.video.masked import segmented
from pipeline.video.named import Found, with_first
from pipeline.video.reader import VideoReader
from pipeline.video.segments import SegmentStore, frames_per_segment
from pipeline.video.source import Source
from pipeline.video.span import Span, frames_again, frames_in
from pipeline.video.steady import MaskedFrame
from pipeline.video.tally import Tally


class Passing(NamedTuple):
    """Frames on their way.

    Attributes:
        frames: They come with their masks, once.
        tally: Counts each when the next one is asked for.
        found: Where the object was found by its name; None if it was not looked for.
    """

    frames: Iterator[MaskedFrame]
    tally: Tally
    found: Found | None


@contextmanager
def passing(
    source: Source,
    reader: VideoReader,
    span: Span,
    segmenter: Segmenter,
    box: Box | None,
    names: tuple[str, ...],
    *,
    store: SegmentStore | None = None,
    kept: Callable[[], None] = lambda: None,
    beat: Callable[[], None] = lambda: None,
) -> Iterator[Passing]:
    """Find the masks of a part of a video.

    Args:
        source: The video, which is opened once more to look for the object.
        reader: It reads the video.
        span: The part.
        segmenter: The model.
        box: Around the object in the first frame.
        names: Names of the object, which is looked for if there is no box.
        store: As in ``segmented``. With one, the tally has segments, too.
        kept: As in ``segmented``.
        beat: Called for every frame in which the object is looked for.

    Raises:
        ItemError: A frame cannot be decoded, the box is outside, the object is not found, or the model fails on a frame.
    """
    frames, found = frames_in(reader, span), None
    if box is None and names:
        again = partial(frames_again, source, span, reader.limits, beat)
        frames, found = with_first(frames, again, reader.facts, names, segmenter)
    named = None if found is None else found.named
    masked = segmented(frames, reader.facts, segmenter, box, store, kept, named=named)
    with closing(masked), closing(ahead(masked, wait=True)) as batches:
        tally = Tally(reader.facts, 0 if store is None else frames_per_segment(reader.facts.size))
        yield Passing(tally.passing(chain.from_iterable(batches)), tally, found)
