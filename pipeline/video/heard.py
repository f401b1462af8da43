"""Note which parts of a sound track are carried into an output, and describe what is missing."""

from __future__ import annotations

SILENT_S = 1.0
"""Longest part of a video without packets of a sound track that is not worth a remark, in seconds."""


class Heard:
    """Record which parts of one sound track are carried. Times are seconds of the output.

    Args:
        number: Of the track among the source's, from 0.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.end_s: float | None = None
        """End of the sound that was carried last; None if none was."""
        self._begin_s = 0.0
        self._gaps: list[tuple[float, float]] = []
        self._damaged = 0
        self._damaged_s = 0.0

    def carry(self, start_s: float, end_s: float) -> None:
        """Note a packet, or a decoded frame, that was carried."""
        if self.end_s is None:
            self._begin_s = start_s
        elif start_s - self.end_s > SILENT_S:
            self._gaps.append((self.end_s, start_s))
        self.end_s = max(end_s, self.end_s or 0.0)

    def leave_out(self, at_s: float) -> None:
        """Note a packet that is damaged."""
        self._damaged_s = self._damaged_s if self._damaged else at_s
        self._damaged += 1

    def remarks(self, first_s: float, last_s: float) -> list[str]:
        """Return a sentence per thing that is missing between the first picture and the end of the last one."""
        said, track = list[str](), f"sound track {self.number}"
        if self._damaged:
            said.append(f"{track}: {self._damaged} damaged packets are left out, the first one at {self._damaged_s:.2f} s")
        if self.end_s is None:
            return [*said, f"{track} has no sound there"]
        ends = [(first_s, self._begin_s), *self._gaps, (self.end_s, last_s)]
        if missing := [(start_s, end_s) for start_s, end_s in ends if end_s - start_s > SILENT_S]:
            (start_s, end_s), *others = missing
            more = f", and in {len(others)} more places" if others else ""
            said.append(f"{track} has no sound from {start_s:.2f} s to {end_s:.2f} s{more}")
        return said
