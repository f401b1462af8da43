"""An evaluation as tables: Markdown for people, JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.evaluate.summary import Means, Summary
from pipeline.quality.intervals import LEVEL, RESAMPLES, Interval
from pipeline.quality.metrics import METRICS
from pipeline.quality.ranking import NUMBERS, Ranking

TITLES = {metric.name: metric.title for metric in METRICS}
RELEASE_NOTE = ("mae", "s_measure", "e_mean", "dice_mean", "dice_binary", "f_max", "weighted_f", "iou", "boundary_iou")
"""Columns of the comparison: what release notes of such models report, each variant by its name."""

SHOWN_COVERAGES = (0.25, 0.5, 0.75, 0.9, 1.0)

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""Title, heads, rows."""


def tables(summaries: Sequence[Summary]) -> list[Table]:
    """The comparison, every metric, every tag, every score."""
    whole = [_comparison(summaries), _failures(summaries), _every_metric(summaries)]
    found = [*whole, *map(_by_tag, summaries), ranking_table(_judged(summaries)), _risks(summaries)]
    return [table for table in found if table[2]]


def markdown(summaries: Sequence[Summary]) -> str:
    """All tables, and what their columns are."""
    parts = ["# Evaluation"]
    for title, heads, rows in tables(summaries):
        parts += [f"## {title}", _markdown_table(heads, rows)]
    about = [f"* **{metric.title}** {_cell(metric.about)}" for metric in METRICS]
    note = (
        f"Means over the items that could be measured, with {LEVEL:.0%} intervals ({RESAMPLES} resamples of items). E max, "
        "Dice max and F max are the maximum of the mean curve: one threshold for the whole set."
    )
    return "\n\n".join([*parts, note, "\n".join(about)]) + "\n"


def as_json(summaries: Sequence[Summary]) -> bytes:
    """The same numbers, with all their digits; null where a number isn't defined."""
    models = [
        {
            "model": one.model,
            "recipe": one.recipe_folder,
            "items": one.items,
            "measured": one.whole.items,
            "failed": one.failed,
            "unreadable": one.unreadable,
            "errors": {code: {"count": count, "example": example} for code, (count, example) in one.errors.items()},
            "metrics": _facts(one.whole.metrics),
            "tags": {tag: {"measured": some.items, "metrics": _facts(some.metrics)} for tag, some in one.tags.items()},
            "quality_calibrated": one.calibrated,
            "rankings": {
                score: {
                    "items": ranking.items,
                    "failures": ranking.failures,
                    "numbers": _facts(ranking.numbers),
                    "risk_coverage": [{"coverage": coverage, "risk": risk} for coverage, risk in ranking.curve],
                }
                for score, ranking in one.rankings.items()
            },
        }
        for one in summaries
    ]
    return json.dumps({"level": LEVEL, "resamples": RESAMPLES, "models": models}, indent=1, ensure_ascii=False).encode()


def _comparison(summaries: Sequence[Summary]) -> Table:
    names = [name for name in RELEASE_NOTE if any(name in one.whole.metrics for one in summaries)]
    rows = [
        [one.model, f"{one.whole.items}", f"{one.failed}", *(_number(name, one.whole.metrics.get(name)) for name in names)]
        for one in summaries
    ]
    return "Models", ["model", "items", "failed", *(TITLES[name] for name in names)], rows


def _failures(summaries: Sequence[Summary]) -> Table:
    rows = [
        [one.model, code, str(count), example] for one in summaries for code, (count, example) in sorted(one.errors.items())
    ]
    return "Not measured", ["model", "code", "items", "for example"], rows


def _every_metric(summaries: Sequence[Summary]) -> Table:
    rows = []
    for metric in METRICS:
        found = [one.whole.metrics.get(metric.name) for one in summaries]
        if any(found):
            rows.append([metric.title, *(_number(metric.name, one, interval=True) for one in found)])
    return "Every metric", ["metric", *(one.model for one in summaries)], rows


def _by_tag(summary: Summary) -> Table:
    def row(name: str, some: Means) -> list[str]:
        return [name, str(some.items), *(_number(metric, some.metrics.get(metric), interval=True) for metric in shown)]

    shown = [name for name in ("mae", "s_measure", "dice_binary", "boundary_iou") if name in summary.whole.metrics]
    rows = [row(tag, some) for tag, some in summary.tags.items()]
    heads = ["tag", "items", *(TITLES[name] for name in shown)]
    return f"{summary.model} by tag", heads, [*rows, row("all", summary.whole)] if rows else []


def ranking_table(judged: Sequence[tuple[str, Ranking]]) -> Table:
    """How good some scores are, each under its own name."""
    rows = [
        ["items", *(str(ranking.items) for _, ranking in judged)],
        ["failures", *(str(ranking.failures) for _, ranking in judged)],
    ]
    for name, (_, title) in NUMBERS.items():
        rows.append([title, *(_plain(ranking.numbers[name], interval=True) for _, ranking in judged)])
    return "How good is the score", ["score", *(name for name, _ in judged)], rows if judged else []


def _risks(summaries: Sequence[Summary]) -> Table:
    judged = _judged(summaries)
    rows = [
        [f"{coverage:.0%}", *(f"{dict(ranking.curve).get(coverage, math.nan):.3f}" for _, ranking in judged)]
        for coverage in SHOWN_COVERAGES
    ]
    return "Mean of 1 - Dice of the best-scored", ["items", *(name for name, _ in judged)], rows if judged else []


def _judged(summaries: Sequence[Summary]) -> list[tuple[str, Ranking]]:
    """Every score that was judged, with the name of its column."""
    known = {(one.model, "quality"): "" if one.calibrated else ", uncalibrated" for one in summaries}
    return [
        (f"{one.model}: {score}{known.get((one.model, score), '')}", ranking)
        for one in summaries
        for score, ranking in one.rankings.items()
    ]


def _number(name: str, one: Interval | None, *, interval: bool = False) -> str:
    """Errors in thousandths of the scale need another digit."""
    return "" if one is None else _plain(one, 4 if name in ("mae", "mae_soft", "mse") else 3, interval=interval)


def _plain(one: Interval, digits: int = 3, *, interval: bool = False) -> str:
    if not math.isfinite(one.value):
        return "–"
    around = f" [{one.low:.{digits}f}, {one.high:.{digits}f}]" if interval and math.isfinite(one.low) else ""
    return f"{one.value:.{digits}f}{around}"


def _facts(numbers: dict[str, Interval]) -> dict[str, Any]:
    return {name: {part: _finite(value) for part, value in one._asdict().items()} for name, one in numbers.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(_cell(cell) for cell in cells)} |" for cells in (heads, *rows)]
    return "\n".join([lines[0], "|---|" + "--:|" * (len(heads) - 1), *lines[1:]])


def _cell(text: str) -> str:
    """Ids and sentences come from manifests: nothing in them may end a cell or start a tag."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
