"""Write the learning curve, its plot, and a sheet of validation photos while a training runs."""

from __future__ import annotations

import csv
import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
from torch import Tensor

from pipeline.log import log
from pipeline.training.checkpoint import Progress

CURVE = "curve.csv"


@dataclass(frozen=True)
class Validation:
    """Means over the photos held out, and over synthetic products."""

    mae: float
    iou: float
    dice: float
    products_dice: float | None = None
    """None: the training has no view of products, or no material of them is held out."""

    def as_row(self) -> dict[str, float]:
        """Return the numbers that there are, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def report(
    folder: Path, progress: Progress, rate: float, losses: Mapping[str, float], validation: Validation, sheet: Tensor
) -> None:
    """Append a row to ``curve.csv``; replace ``curve.png`` (with matplotlib) and ``sheet.jpg`` (frame, ground truth, alpha).

    An empty sheet replaces none: the first of several processes may have no photo that can be read.
    """
    row = {"step": progress.step, "seconds": round(progress.spent_s), "rate": rate, **losses, **validation.as_row()}
    path = folder / CURVE
    log.info(append_row(path, row))
    if sheet.numel():
        cv2.imwrite(str(folder / "sheet.jpg"), sheet.numpy()[..., ::-1])
    if importlib.util.find_spec("matplotlib"):
        _plot(path, folder / "curve.png")


def append_row(path: Path, row: Mapping[str, float]) -> str:
    """Append a row to a CSV file, after a header if the file is new, and return the row as text for the log.

    Columns that the file does not have are added: its earlier rows have no values there.
    """
    names, rows = _read(path) if path.exists() else ([], [])
    if missing := [name for name in row if name not in names]:
        names += missing
        _write(path, names, rows)
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, names).writerow({name: f"{value:.6g}" for name, value in row.items()})
    return " ".join(f"{name} {value:.5g}" for name, value in row.items())


def drop_rows(path: Path, after: int) -> None:
    """Drop the rows of steps after this one from a CSV file: a training that is resumed does these steps again.

    A file that does not exist stays absent.
    """
    if not path.exists():
        return
    names, rows = _read(path)
    kept = [row for row in rows if _step_of(row) <= after]
    if len(kept) < len(rows):
        _write(path, names, kept)


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return a CSV file's columns and rows."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return list(reader.fieldnames or ()), list(reader)


def _write(path: Path, names: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    """Write a CSV file; an interruption leaves the one before."""
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)


def _step_of(row: Mapping[str, str]) -> float:
    """Return a row's step; infinity for a row that an interruption has cut off."""
    try:
        return float(row.get("step") or "")
    except ValueError:
        return math.inf


def _plot(curve: Path, target: Path) -> None:
    from matplotlib.figure import Figure

    rows = [{name: float(value or "nan") for name, value in row.items()} for row in _read(curve)[1]]
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    measured: list[str] = [name for name in ("mae", "iou", "dice", "products_dice") if name in rows[0]]
    for axis, names in zip(axes, (["loss", "final", "local", "overview", "saliency"], measured), strict=True):
        for name in (one for one in names if one in rows[0]):
            axis.plot([row["step"] for row in rows], [row[name] for row in rows], label=name, marker=".")
        axis.set_xlabel("step")
        if axis.lines:
            axis.legend(loc="upper right")
    figure.savefig(target)
