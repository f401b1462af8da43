"""Find damage in the structure of Matroska and WebM files (RFC 9559).

FFmpeg's demuxer looks for the next cluster behind such a place, and leaves out the frames before it without an error.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from pipeline.errors import DecodeError

EBML, SEGMENT, CLUSTER, BLOCK_GROUP = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0xA0
VOID, CRC = 0xEC, 0xBF
SIMPLE_BLOCK, BLOCK, TRACKS, TRACK, TRACK_NUMBER = 0xA3, 0xA1, 0x1654AE6B, 0xAE, 0xD7

IN_SEGMENT = frozenset({CLUSTER, 0x114D9B74, 0x1549A966, TRACKS, 0x1C53BB6B, 0x1254C367, 0x1941A469, 0x1043A770, VOID, CRC})
"""Clusters, SeekHead, Info, Tracks, Cues, Tags, Attachments, Chapters."""

IN_CLUSTER = frozenset({BLOCK_GROUP, SIMPLE_BLOCK, 0xE7, 0x5854, 0xA7, 0xAB, 0xAF, VOID, CRC})
"""Blocks, Timestamp, SilentTracks, Position, PrevSize, EncryptedBlock."""

MAX_ID, MAX_SIZE = 4, 8
"""Bytes of an element's id and of its size, at most."""

MAX_ELEMENTS = 20_000_000
"""Elements per file, at most. Four hours at 60 frames per second with five tracks of sound have a third of that. A hostile
file may consist of empty ones."""

BEAT_ELEMENTS = 20
"""Elements of a segment, such as clusters, between two signs of life."""


class _Element(NamedTuple):
    """An element: its id, where its content begins, and its size in bytes; None if it is not known, as in live streams."""

    id: int
    start: int
    size: int | None


class _Damage(Exception):
    """The elements do not fit together at a position."""


class _End(Exception):
    """The file ends in the middle of an element. That it is cut off is noticed by its duration."""


def check_structure(file: BinaryIO, beat: Callable[[], None] = lambda: None) -> None:
    """Check that the elements of a Matroska or WebM file fill it. Files of other formats pass.

    Args:
        file: The video. Its elements are visited one after the other, and their content is passed over.
        beat: Called for some of the elements.

    Raises:
        DecodeError: They do not.
    """
    total = file.seek(0, io.SEEK_END)
    file.seek(0)
    if int.from_bytes(file.read(4)) != EBML:
        return
    try:
        _Walk(file, total, beat).check()
    except _Damage as damage:
        at = damage.args[0]
        raise DecodeError(f"this video is damaged at byte {at:,} of {total:,}, and frames may be missing there") from None
    except _End:
        return


class _Walk:
    """A walk through the elements of a file of ``total`` bytes."""

    def __init__(self, file: BinaryIO, total: int, beat: Callable[[], None]) -> None:
        self.file, self.total, self.beat = file, total, beat
        self.visited = 0
        self.tracks: set[int] = set()
        """Numbers of the tracks, as blocks have them: with the marker of their length."""

    def check(self) -> None:
        """Check the whole file.

        Raises:
            _Damage: Some elements do not fit together.
            _End: The file ends in the middle of one.
        """
        for one in self._elements(0, self.total):
            if one.id == SEGMENT:
                self._check_segment(one)
                return

    def _check_segment(self, segment: _Element) -> None:
        end = self.total if segment.size is None else segment.start + segment.size
        is_live = False  # in a cluster of unknown size, whose elements follow as if they were those of the segment
        for number, one in enumerate(self._elements(segment.start, end)):
            if number % BEAT_ELEMENTS == 0:
                self.beat()
            is_live = one.size is None if one.id == CLUSTER else is_live and one.id in IN_CLUSTER
            if one.id != CLUSTER:
                self._check_child(one, IN_CLUSTER if is_live else IN_SEGMENT)
            elif one.size is not None:
                for child in self._inside(one):
                    self._check_child(child, IN_CLUSTER)

    def _check_child(self, one: _Element, known: frozenset[int]) -> None:
        if one.id not in known or one.size is None:
            raise _Damage(one.start)
        if one.id == TRACKS:
            fields = (field for entry in self._inside(one) if entry.id == TRACK for field in self._inside(entry))
            self.tracks |= {self._track_number(field) for field in fields if field.id == TRACK_NUMBER}
        elif one.id == SIMPLE_BLOCK:
            self._check_block(one)
        elif one.id == BLOCK_GROUP:
            for child in self._inside(one):
                if child.id == BLOCK:
                    self._check_block(child)

    def _track_number(self, field: _Element) -> int:
        if field.size is None or field.size > MAX_SIZE:  # a hostile size would be read into memory
            raise _Damage(field.start)
        self.file.seek(field.start)
        number = int.from_bytes(self.file.read(field.size))
        length = max(1, -(-(number + 1).bit_length() // 7))
        return number | 1 << 7 * length

    def _check_block(self, block: _Element) -> None:
        self.file.seek(block.start)
        if self.tracks and self._number(MAX_SIZE)[0] not in self.tracks:
            raise _Damage(block.start)

    def _inside(self, one: _Element) -> Iterator[_Element]:
        return self._elements(one.start, one.start + (one.size or 0))

    def _elements(self, at: int, end: int) -> Iterator[_Element]:
        """Yield the elements from one position to another. One of unknown size is followed by what it contains.

        Raises:
            _Damage: They do not fill the space, an id or a size is none, or there are too many.
            _End: The file ends before.
        """
        while at < end:
            if at >= self.total:
                raise _End
            self.file.seek(at)
            one = self._element()
            self.visited += 1
            if self.visited > MAX_ELEMENTS:
                raise _Damage(one.start)
            at = one.start + (one.size or 0)
            if at > end and end < self.total:
                raise _Damage(one.start)
            yield one

    def _element(self) -> _Element:
        identity, _ = self._number(MAX_ID)
        size, length = self._number(MAX_SIZE)
        most = (1 << 7 * length) - 1
        return _Element(identity, self.file.tell(), None if size & most == most else size & most)

    def _number(self, most: int) -> tuple[int, int]:
        """Return a number of variable length with its marker, and its length in bytes."""
        at, first = self.file.tell(), self.file.read(1)
        if not first:
            raise _End
        length = 9 - first[0].bit_length()
        if length > most:
            raise _Damage(at)
        rest = self.file.read(length - 1)
        if len(rest) < length - 1:
            raise _End
        return int.from_bytes(first + rest), length
