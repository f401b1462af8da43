"""Read the size of the pictures in an AV1 stream (AV1 Bitstream & Decoding Process Specification, section 5)."""

from __future__ import annotations

from collections.abc import Iterator

MAX_UNITS = 1_000
"""Units that are looked at. The sequence header is one of the first."""
_SEQUENCE_HEADER = 1


def coded_sizes(stream: bytes) -> Iterator[tuple[int, int]]:
    """Yield the width and height of each sequence header. Frames may be smaller, not larger."""
    at = 0
    for _ in range(MAX_UNITS):
        if at >= len(stream):
            return
        head, at = stream[at], at + 1 + (stream[at] >> 2 & 1)
        size = len(stream) - at
        if head & 2:  # the unit says its size: seven bits per byte, the lowest first
            size, more = 0, 1
            for shift in range(0, 56, 7):
                if more and at < len(stream):
                    size |= (stream[at] & 127) << shift
                    more, at = stream[at] >> 7, at + 1
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            yield _size(_Bits(stream[at : at + size]))
        at += size


class _Bits:
    """Read unsigned numbers bit by bit. Bits behind the end are 0."""

    def __init__(self, data: bytes) -> None:
        self.value, self.left = int.from_bytes(data[:512] + bytes(64), "big"), 8 * (len(data[:512]) + 64)

    def uint(self, count: int) -> int:
        self.left -= count
        return self.value >> max(self.left, 0) & (1 << count) - 1

    def skip_variable(self) -> None:
        """Skip a number of variable length (uvlc)."""
        zeros = 0
        while zeros < 32 and not self.uint(1):
            zeros += 1
        self.uint(zeros if zeros < 32 else 0)


def _size(bits: _Bits) -> tuple[int, int]:
    """Return the largest width and height of a sequence's frames (section 5.5.1)."""
    bits.uint(4)  # profile, still picture
    if bits.uint(1):  # reduced still picture header
        bits.uint(5)
    else:
        delay_bits = 0
        if bits.uint(1):  # timing info
            bits.uint(64)
            if bits.uint(1):  # equal picture interval
                bits.skip_variable()
            if bits.uint(1):  # decoder model info
                delay_bits = bits.uint(5) + 1
                bits.uint(42)
        display_delay = bits.uint(1)
        for _ in range(bits.uint(5) + 1):
            bits.uint(12)
            if bits.uint(5) > 7:  # level
                bits.uint(1)  # tier
            if delay_bits and bits.uint(1):
                bits.uint(2 * delay_bits + 1)
            if display_delay and bits.uint(1):
                bits.uint(4)
    width_bits, height_bits = bits.uint(4) + 1, bits.uint(4) + 1
    return bits.uint(width_bits) + 1, bits.uint(height_bits) + 1
