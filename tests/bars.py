"""Quality bars: numbers that a test measures against a stated limit, shown in a table at the end of the run."""

from __future__ import annotations

from typing import Literal, NamedTuple

import pytest

KEPT = pytest.StashKey[list["Bar"]]()


class Bar(NamedTuple):
    name: str
    value: float
    limit: float
    relation: Literal["<=", ">="] = "<="

    @property
    def holds(self) -> bool:
        return self.value <= self.limit if self.relation == "<=" else self.value >= self.limit


class Bars:
    """Given to tests as the fixture ``bars``."""

    def __init__(self, kept: list[Bar]) -> None:
        self.kept = kept

    def at_most(self, name: str, value: float, limit: float) -> None:
        """Keep the number, and fail the test if it is above the limit."""
        self._keep(Bar(name, float(value), limit))

    def at_least(self, name: str, value: float, limit: float) -> None:
        """Keep the number, and fail the test if it is below the limit."""
        self._keep(Bar(name, float(value), limit, ">="))

    def _keep(self, bar: Bar) -> None:
        self.kept.append(bar)
        assert bar.holds, f"{bar.name}: {bar.value:.3g} should be {bar.relation} {bar.limit:g}"


def table(bars: list[Bar]) -> str:
    """One line a bar, and the verdict as the last line."""
    lines = [
        f"{'holds' if bar.holds else 'FAILS'}  {bar.value:9.3g}  {bar.relation} {bar.limit:<8g} {bar.name}" for bar in bars
    ]
    short = [bar.name for bar in bars if not bar.holds]
    verdict = f"{len(bars) - len(short)} of {len(bars)} bars hold: {'all of them' if not short else 'not ' + '; '.join(short)}"
    return "\n".join([*lines, verdict])
