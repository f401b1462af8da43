"""The measured errors as Markdown."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from pipeline.training.scenes import FACTORS, FINISHES, KINDS


def tables(measured: Sequence[Any]) -> str:
    """Alpha by enlargement and finish, by kind; peers; colours."""
    parts = [
        "MSE × 1000 in the band (÷ bilinear), held-out scenes",
        _table(("", "scenes", "band", *_ways(measured)), _mse_rows(measured)),
        "Of those at 4x that the closed form was run on: MSE × 1000 · SAD · Grad · Conn",
        _table(("", "MSE", "SAD", "Grad", "Conn"), _peer_rows(_slow(measured))),
        "Colour in the band, mean |αF - truth| in levels, given the true alpha (÷ naive)",
        _table(("", *FINISHES), _colour_rows(_slow(measured), "colours")),
        "The same given each way's own alpha",
        _table(("", *FINISHES), _colour_rows(_slow(measured), "cutouts")),
    ]
    return "\n\n".join(parts) + "\n"


def _ways(measured: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(name for row in measured for name in row.alphas if name != "rembg closed form"))


def _slow(measured: Iterable[Any]) -> list[Any]:
    return [row for row in measured if "rembg closed form" in row.alphas]


def _mse_rows(measured: Sequence[Any]) -> Iterable[Sequence[str]]:
    for factor, finish in itertools.product(FACTORS, FINISHES):
        yield _mse_row(f"{factor}x {finish}", measured, lambda row, f=factor, g=finish: (row.factor, row.finish) == (f, g))
    for kind in KINDS:
        yield _mse_row(f"4x {kind}", measured, lambda row, k=kind: (row.factor, row.kind) == (4, k))


def _mse_row(name: str, measured: Sequence[Any], wanted: Callable[[Any], bool]) -> list[str]:
    rows = [row for row in measured if wanted(row)]
    base = np.mean([row.alphas["bilinear"].mse for row in rows])
    cells = []
    for way in _ways(measured):
        mean = np.mean([row.alphas[way].mse for row in rows])
        cells.append(f"{1000 * mean:.2f} ({mean / base:.2f})")
    return [name, str(len(rows)), f"{100 * np.mean([row.band_share for row in rows]):.0f} %", *cells]


def _peer_rows(rows: Sequence[Any]) -> Iterable[Sequence[str]]:
    for way in rows[0].alphas:
        errors = np.mean([row.alphas[way] for row in rows], 0)  # sad, mse, grad, conn
        yield [way, f"{1000 * errors[1]:.2f}", f"{errors[0]:.2f}", f"{errors[2]:.2f}", f"{errors[3]:.2f}"]


def _colour_rows(rows: Sequence[Any], which: str) -> Iterable[Sequence[str]]:
    ways = list(getattr(rows[0], which))
    for way in ways:
        cells = []
        for finish in FINISHES:
            ours, first = (
                np.mean([getattr(row, which)[name] for row in rows if row.finish == finish]) for name in (way, ways[0])
            )
            cells.append(f"{ours:.2f} ({ours / first:.2f})")
        yield [way, *cells]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|---|" + "--:|" * (len(head) - 1), *lines])
