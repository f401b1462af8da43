"""Format an evaluation as tables: Markdown to read, JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.evaluate.by_tag import ALL, TagScore
from pipeline.evaluate.summary import Means, Summary
from pipeline.quality.intervals import LEVEL, RESAMPLES, Interval
from pipeline.quality.metrics import METRICS
from pipeline.quality.ranking import RANKING_METRICS, Ranking

TITLES = {metric.name: metric.title for metric in METRICS}
COMPARED = ("mae", "s_measure", "e_mean", "dice_mean", "dice_binary", "f_max", "weighted_f", "iou", "boundary_iou")
"""Metrics in the comparison table: the ones that model release notes usually report."""
PER_TAG = ("mae", "s_measure", "dice_binary", "boundary_iou")
COVERAGES = (0.25, 0.5, 0.75, 0.9, 1.0)

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""Title, header, rows."""


def tables(summaries: Sequence[Summary]) -> list[Table]:
    """Return the tables that have rows: comparison, failures, differences, metrics, metrics and score by tag, scores."""
    found = [_comparison(summaries), _failures(summaries), _differences(summaries), _every_metric(summaries)]
    found += map(_by_tag, summaries)
    found += [score_table(f"{one.model}: the score by tag", one.scores) for one in summaries]
    found += [ranking_table(_rankings(summaries)), _risks(summaries)]
    return [table for table in found if table[2]]


def markdown(summaries: Sequence[Summary]) -> str:
    """Return all tables, and the definitions of their columns."""
    parts = ["# Evaluation"]
    for title, header, rows in tables(summaries):
        parts += [f"## {title}", markdown_table(header, rows)]
    about = [f"* **{metric.title}** {_cell(metric.about)}" for metric in METRICS]
    note = (
        f"Means over the items that could be measured, with {LEVEL:.0%} intervals ({RESAMPLES} resamples of items). E max, "
        "Dice max and F max are the maximum of the mean curve: one threshold for the data set. Differences are means over pairs"
        " of the same item by both models; a star means that the interval does not contain 0."
    )
    return "\n\n".join([*parts, note, "\n".join(about)]) + "\n"


def as_json(summaries: Sequence[Summary]) -> bytes:
    """Return the same numbers with all digits; null for undefined ones."""
    models = [
        {
            "model": one.model,
            "recipe": one.recipe,
            "items": one.items,
            "measured": one.overall.items,
            "failed": one.failed,
            "unreadable": one.unreadable,
            "errors": {code: {"count": count, "example": example} for code, (count, example) in one.errors.items()},
            "metrics": _as_dict(one.overall.metrics),
            "tags": {tag: {"measured": some.items, "metrics": _as_dict(some.metrics)} for tag, some in one.tags.items()},
            "difference_from_first": _difference_as_dict(one),
            "quality_calibrated": one.calibrated,
            "scores": {tag: _score_as_dict(score) for tag, score in one.scores.items()},
            "rankings": {
                score: {
                    "items": ranking.items,
                    "failures": ranking.failures,
                    "numbers": _as_dict(ranking.numbers),
                    "risk_coverage": [{"coverage": coverage, "risk": risk} for coverage, risk in ranking.curve],
                }
                for score, ranking in one.rankings.items()
            },
        }
        for one in summaries
    ]
    return json.dumps({"level": LEVEL, "resamples": RESAMPLES, "models": models}, indent=1, ensure_ascii=False).encode()


def _comparison(summaries: Sequence[Summary]) -> Table:
    names = [name for name in COMPARED if any(name in one.overall.metrics for one in summaries)]
    rows = [
        [one.model, f"{one.overall.items}", f"{one.failed}", *(_number(name, one.overall.metrics.get(name)) for name in names)]
        for one in summaries
    ]
    return "Models", ["model", "items", "failed", *(TITLES[name] for name in names)], rows


def _failures(summaries: Sequence[Summary]) -> Table:
    rows = [
        [one.model, code, str(count), example] for one in summaries for code, (count, example) in sorted(one.errors.items())
    ]
    return "Not measured", ["model", "code", "items", "for example"], rows


def _differences(summaries: Sequence[Summary]) -> Table:
    """Return how the other models differ from the first one."""
    others = [one for one in summaries if one.difference is not None]
    rows = []
    for metric in METRICS:
        found = [one.difference.metrics.get(metric.name) for one in others if one.difference is not None]
        if metric.name in COMPARED and any(found):
            better = "lower" if metric.lower_is_better else "higher"
            rows.append([f"{metric.title} ({better} is better)", *(_signed(metric.name, one) for one in found)])
    return f"Difference from {summaries[0].model}" if summaries else "", ["metric", *(one.model for one in others)], rows


def _every_metric(summaries: Sequence[Summary]) -> Table:
    rows = []
    for metric in METRICS:
        found = [one.overall.metrics.get(metric.name) for one in summaries]
        if any(found):
            rows.append([metric.title, *(_number(metric.name, one, interval=True) for one in found)])
    return "Every metric", ["metric", *(one.model for one in summaries)], rows


def _by_tag(summary: Summary) -> Table:
    def row(name: str, some: Means) -> list[str]:
        return [name, str(some.items), *(_number(metric, some.metrics.get(metric), interval=True) for metric in names)]

    names = [name for name in PER_TAG if name in summary.overall.metrics]
    rows = [row(tag, some) for tag, some in summary.tags.items()]
    header = ["tag", "items", *(TITLES[name] for name in names)]
    return f"{summary.model} by tag", header, [*rows, row("all", summary.overall)] if rows else []


def score_table(title: str, scores: dict[str, TagScore]) -> Table:
    """Return how good the quality is for each tag. Tags that all items share are left out, since the last row has them."""
    header = ["tag", "items", "Dice < 0.9", "AUROC for these", "calibration error", "ok", "Dice < 0.9 among ok"]
    rows = [
        [tag, f"{one.items}", f"{one.failures}", _plain(one.auroc), _plain(one.calibration_error), f"{one.ok}", _share(one)]
        for tag, one in scores.items()
        if tag == ALL or one.items < scores[ALL].items
    ]
    return title, header, rows


def ranking_table(rankings: Sequence[tuple[str, Ranking]]) -> Table:
    """Return how good some scores are, each under its own name."""
    rows = [[name, *(str(getattr(ranking, name)) for _, ranking in rankings)] for name in ("items", "failures")]
    for name, (_, title) in RANKING_METRICS.items():
        rows.append([title, *(_format(ranking.numbers[name], interval=True) for _, ranking in rankings)])
    return "How good is the score", ["score", *(name for name, _ in rankings)], rows if rankings else []


def _risks(summaries: Sequence[Summary]) -> Table:
    rankings = _rankings(summaries)
    rows = [
        [f"{coverage:.0%}", *(f"{dict(ranking.curve).get(coverage, math.nan):.3f}" for _, ranking in rankings)]
        for coverage in COVERAGES
    ]
    return "Mean of 1 - Dice of the best-scored", ["items", *(name for name, _ in rankings)], rows if rankings else []


def _rankings(summaries: Sequence[Summary]) -> list[tuple[str, Ranking]]:
    """Return the ranking of every score, with the name of its column."""

    def title(one: Summary, score: str) -> str:
        return f"{one.model}: {score}{', uncalibrated' if score == 'quality' and not one.calibrated else ''}"

    return [(title(one, score), ranking) for one in summaries for score, ranking in one.rankings.items()]


def _number(name: str, one: Interval | None, *, interval: bool = False) -> str:
    """Format a metric."""
    return "" if one is None else _format(one, _digits(name), interval=interval)


def _signed(name: str, one: Interval | None) -> str:
    """Format a difference: ``-0.0031 [-0.0052, -0.0011] *``. The star: its interval does not contain 0."""
    if one is None or not math.isfinite(one.value):
        return "–"
    digits = _digits(name)
    bounds = f" [{one.low:+.{digits}f}, {one.high:+.{digits}f}]{' *' if one.low > 0 or one.high < 0 else ''}"
    return f"{one.value:+.{digits}f}{bounds if math.isfinite(one.low) else ''}"


def _digits(name: str) -> int:
    """Return the decimals of a metric. Those with very small values (MAE, MSE) get a fourth one."""
    return 4 if name in ("mae", "mae_soft", "mse") else 3


def _format(one: Interval, digits: int = 3, *, interval: bool = False) -> str:
    if not math.isfinite(one.value):
        return "–"
    bounds = f" [{one.low:.{digits}f}, {one.high:.{digits}f}]" if interval and math.isfinite(one.low) else ""
    return f"{one.value:.{digits}f}{bounds}"


def _plain(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"


def _share(one: TagScore) -> str:
    """Format the failures among the ok items: ``3 (4.2 %)``."""
    return f"{one.ok_failures} ({100 * one.ok_failures / one.ok:.1f} %)" if one.ok else "–"


def _score_as_dict(one: TagScore) -> dict[str, Any]:
    return {name: _finite(value) for name, value in one._asdict().items()}


def _difference_as_dict(one: Summary) -> dict[str, Any] | None:
    if one.difference is None:
        return None
    tags = {tag: {"measured": some.items, "metrics": _as_dict(some.metrics)} for tag, some in one.tag_differences.items()}
    return {"measured": one.difference.items, "metrics": _as_dict(one.difference.metrics), "tags": tags}


def _as_dict(numbers: dict[str, Interval]) -> dict[str, Any]:
    return {name: {part: _finite(value) for part, value in one._asdict().items()} for name, one in numbers.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table in Markdown."""
    lines = [f"| {' | '.join(_cell(cell) for cell in cells)} |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|---|" + "--:|" * (len(header) - 1), *lines[1:]])


def _cell(text: str) -> str:
    """Escape text from manifests, so that it cannot end a cell or start a tag."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
