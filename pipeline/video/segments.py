"""Keep the masks of a long video while it is worked on, segment by segment, so that a crash costs one segment.

A segment is a number of consecutive frames. Its masks are one object, which is written when the segment is complete. A later
attempt reads the masks, and asks the model for the frames behind them only. When the video is done, its segments are deleted.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import FetchError, StorageError
from pipeline.imaging.png import encode_mask
from pipeline.imaging.validate import decode_mask
from pipeline.log import log
from pipeline.storage.files import Files
from pipeline.storage.uris import join
from pipeline.types import Size
from pipeline.video.reader import Frame
from pipeline.video.steady import MaskedFrame

SEGMENT_FRAMES = 250
"""Frames per segment, at most: ten seconds of a usual video."""

SEGMENT_PIXELS = 2**28
"""Pixels of these frames together, at most: 129 frames in Full HD."""

STORED = pa.schema(
    [
        ("pts", pa.int64()),
        ("quality", pa.float64()),
        ("reasons", pa.list_(pa.string())),
        ("flicker", pa.float64()),
        ("mask", pa.binary()),
    ]
)
"""A frame of a stored segment. The mask is a PNG."""


class StoredFrame(NamedTuple):
    """A frame's mask and what is known of it, as ``MaskedFrame`` has them."""

    pts: int
    quality: float
    reasons: tuple[str, ...]
    flicker: float | None
    png: bytes

    def masked(self, frame: Frame) -> MaskedFrame:
        """Return the frame with its mask.

        Raises:
            DecodeError: The mask is damaged.
        """
        return MaskedFrame(frame, decode_mask(self.png), self.quality, self.reasons, self.flicker)


@dataclass(frozen=True)
class SegmentStore:
    """The segments of one video.

    Attributes:
        folder: Path or URI of their folder. It belongs to the item.
        key: Of everything that the masks depend on. Segments with other keys are ignored.
        files: Access to storage.
    """

    folder: str
    key: str
    files: Files

    @classmethod
    def of(cls, folder: str, files: Files, facts: Sequence[Any]) -> SegmentStore:
        """Return the segments that depend on these facts, which become JSON."""
        return cls(folder, hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16], files)

    def read(self, number: int) -> list[StoredFrame] | None:
        """Return the frames of a segment; None if it is not there, or damaged."""
        uri = self._uri(number)
        try:
            if not self.files.exists(uri):
                return None
            table = pq.read_table(io.BytesIO(self.files.read(uri)), schema=STORED, page_checksum_verification=True)
        except (FetchError, StorageError, pa.ArrowException, OSError, ValueError) as error:
            log.warning(f"{uri} can't be used, so its frames are segmented again: {error}")
            return None
        rows = table.to_pylist()
        return [StoredFrame(row["pts"], row["quality"], tuple(row["reasons"]), row["flicker"], row["mask"]) for row in rows]

    def write(self, number: int, frames: Iterable[StoredFrame]) -> None:
        """Write the frames of a segment.

        Raises:
            WriteError: They cannot be written.
        """
        rows = [one._asdict() for one in frames]
        columns = {name: [row["png" if name == "mask" else name] for row in rows] for name in STORED.names}
        sink = io.BytesIO()
        pq.write_table(pa.table(columns, STORED), sink, compression="none", write_page_checksum=True)
        self.files.write(self._uri(number), sink.getvalue())

    def _uri(self, number: int) -> str:
        return join(self.folder, f"{self.key}-{number:06}.parquet")


def frames_per_segment(size: Size) -> int:
    """Return the number of frames per segment of a video of this size."""
    return max(1, min(SEGMENT_FRAMES, SEGMENT_PIXELS // (size.height * size.width)))


class Window(NamedTuple):
    """Frames that are segmented together: a part of one segment."""

    segment: int
    frames: list[Frame]
    ends: bool
    """True if the segment has all its frames with this window."""


def windows(frames: Iterable[Frame], per_segment: int, per_window: int, first: int = 0) -> Iterator[Window]:
    """Divide a video into segments, and these into windows. The very first frame is a window of its own."""
    rest, segment, size = iter(frames), first, 1
    left = per_segment
    while window := list(islice(rest, min(size, left))):
        left -= len(window)
        yield Window(segment, window, ends=not left)
        size = per_window
        if not left:
            segment, left = segment + 1, per_segment


def stored_frame(one: MaskedFrame) -> StoredFrame:
    """Return what is stored of a frame."""
    return StoredFrame(one.frame.pts, one.quality, one.reasons, one.flicker, encode_mask(one.mask))
