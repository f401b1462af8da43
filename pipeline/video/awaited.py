"""Notice frames that a decoder leaves out without an error."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from typing import Any

from pipeline.errors import DecodeError

AV1 = "av1"


class Awaited:
    """Compares the times of frames with those of the packets that went into their decoder.

    PyAV ends with the first error when it takes the last frames out of a decoder, and does not raise it. The decoder of AV1
    never says that a frame is damaged. Others do, and their formats may have packets without a frame.

    Args:
        codec: FFmpeg's canonical name of the codec.
        unit: Seconds per unit of the packets' times.
    """

    def __init__(self, codec: str, unit: Fraction) -> None:
        self._has_frame_each, self._unit = codec == AV1, unit
        self._sent: deque[int] = deque()
        self._last_sent: int | None = None
        self._last: int | None = None

    def send(self, packet: Any) -> None:
        """Note a packet that goes into the decoder."""
        if packet.size and packet.pts is not None and not packet.is_discard:
            self._last_sent = packet.pts if self._last_sent is None else max(packet.pts, self._last_sent)
            if self._has_frame_each:
                self._sent.append(packet.pts)

    def receive(self, frame: Any) -> None:
        """Note a frame.

        Raises:
            DecodeError: One before it is missing.
        """
        if frame.pts is None:
            return
        is_first, self._last = self._last is None, frame.pts
        while self._sent and self._sent[0] <= frame.pts:
            lost = self._sent.popleft()
            if lost < frame.pts and not is_first:  # those before the first one may refer to frames before the file
                raise self._damaged(lost)

    def check_end(self) -> None:
        """Check that the last frame came.

        Raises:
            DecodeError: It did not.
        """
        if self._last is not None and self._last_sent is not None and self._last < self._last_sent:
            raise self._damaged(self._last_sent)

    def _damaged(self, pts: int) -> DecodeError:
        return DecodeError(f"this video is damaged at about {float(pts * self._unit):.2f} s")
