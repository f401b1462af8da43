"""The measured errors as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pipeline.training.scenes import FACTORS, FINISHES, KINDS

PEER = "rembg closed form"


def tables(measured: Sequence[Any]) -> str:
    """Return the tables: alpha by enlargement, finish and kind; peers; colours."""
    slow = [row for row in measured if PEER in row.alphas]
    methods = [name for name in slow[0].alphas if name != PEER]
    parts = [
        "MSE × 1000 in the unknown region (÷ bilinear), held-out scenes",
        _table(("", "scenes", "unknown", *methods), _mse_rows(measured, methods)),
        "The scenes at 4x that the closed form was run on: MSE × 1000 · SAD · Grad · Conn",
        _table(("", "MSE", "SAD", "Grad", "Conn"), _peer_rows(slow)),
        "Colour in the unknown region, mean |αF - truth| in levels, given the true alpha (÷ naive)",
        _table(("", *FINISHES), _colour_rows(slow, "colours")),
        "The same given each method's own alpha",
        _table(("", *FINISHES), _colour_rows(slow, "cutouts")),
    ]
    return "\n\n".join(parts) + "\n"


def _mse_rows(measured: Sequence[Any], methods: Sequence[str]) -> Iterable[Sequence[str]]:
    groups = {f"{f}x {g}": [row for row in measured if (row.factor, row.finish) == (f, g)] for f in FACTORS for g in FINISHES}
    groups |= {f"4x {kind}": [row for row in measured if (row.factor, row.kind) == (4, kind)] for kind in KINDS}
    for name, rows in groups.items():
        means = {method: np.mean([row.alphas[method].mse for row in rows]) for method in methods}
        cells = [f"{1000 * mean:.2f} ({mean / means['bilinear']:.2f})" for mean in means.values()]
        yield [name, str(len(rows)), f"{100 * np.mean([row.unknown_share for row in rows]):.0f} %", *cells]


def _peer_rows(rows: Sequence[Any]) -> Iterable[Sequence[str]]:
    for method in rows[0].alphas:
        sad, mse, grad, conn = np.mean([row.alphas[method] for row in rows], 0)
        yield [method, f"{1000 * mse:.2f}", f"{sad:.2f}", f"{grad:.2f}", f"{conn:.2f}"]


def _colour_rows(rows: Sequence[Any], which: str) -> Iterable[Sequence[str]]:
    methods = list(getattr(rows[0], which))
    means = {
        (method, finish): np.mean([getattr(row, which)[method] for row in rows if row.finish == finish])
        for method in methods
        for finish in FINISHES
    }
    for method in methods:
        yield [method, *(f"{means[method, f]:.2f} ({means[method, f] / means[methods[0], f]:.2f})" for f in FINISHES)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|---|" + "--:|" * (len(head) - 1), *lines])
