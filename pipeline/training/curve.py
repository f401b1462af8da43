"""A learning curve as it grows: one row of a CSV file a measurement."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path


def add_row(path: Path, row: Mapping[str, float]) -> str:
    """Append a row, after the heads if the file is new; the same for a person."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow({name: f"{value:.6g}" for name, value in row.items()})
    return " ".join(f"{name} {value:.5g}" for name, value in row.items())
