"""What a training leaves to look at while it runs: a curve, its plot, and a sheet of samples."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
from torch import Tensor

from pipeline.log import log
from pipeline.training.checkpoint import Progress
from pipeline.training.curve import add_row


@dataclass(frozen=True)
class Measured:
    """Means over the photos held out."""

    mae: float
    iou: float
    dice: float


def tell(out: Path, progress: Progress, rate: float, losses: Mapping[str, float], measured: Measured, sheet: Tensor) -> None:
    """A row of ``curve.csv``, ``curve.png`` anew (with matplotlib), and ``sheet.jpg``: photo, truth and alpha."""
    row = {"step": progress.step, "seconds": round(progress.spent_s), "rate": rate, **losses, **asdict(measured)}
    path = out / "curve.csv"
    log.info(add_row(path, row))
    cv2.imwrite(str(out / "sheet.jpg"), sheet.numpy()[..., ::-1])
    if importlib.util.find_spec("matplotlib"):
        _plot(path, out / "curve.png")


def _plot(curve: Path, target: Path) -> None:
    from matplotlib.figure import Figure

    with curve.open(encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, names in zip(axes, (("loss", "final", "local", "overview", "saliency"), ("mae", "iou", "dice")), strict=True):
        for name in names:
            axis.plot([row["step"] for row in rows], [row[name] for row in rows], label=name)
        axis.set_xlabel("step")
        axis.legend(loc="upper right")
    figure.savefig(target)
