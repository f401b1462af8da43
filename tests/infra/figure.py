"""Draw the dashboard's panels from the answers of a real Prometheus.

Usage: python tests/infra/figure.py out/dashboard/answers.json out/dashboard/dashboard.png
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

COLUMNS = 3
LINES = 6
"""Maximum number of entries in a panel's legend."""


def draw(answers: dict[str, Any], path: Path) -> None:
    """Draw the panels that have data."""
    shown = {title: lines for title, lines in answers["panels"].items() if lines}
    rows = -(-len(shown) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(15, 2.5 * rows), squeeze=False)
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for axis, (title, lines) in zip(axes.flat, shown.items(), strict=False):
        for number, line in enumerate(lines):
            seconds = [time - answers["started"] for time, _ in line["values"]]
            values = [float(value) for _, value in line["values"]]
            axis.plot(seconds, values, linewidth=1.3, label=label(line) if number < LINES else None)
        axis.set_title(title, fontsize=10, loc="left")
        axis.tick_params(labelsize=7)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=6, loc="best", frameon=False)
    figure.supxlabel("seconds", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def label(line: dict[str, Any]) -> str:
    """Fill the labels of a line into its legend."""
    text = re.sub(r"{{(\w+)}}", lambda found: line["metric"].get(found[1], ""), line["legend"])
    return text.rpartition("->")[2][:32] or "none"


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
