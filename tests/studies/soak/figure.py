"""The picture of the soak: memory, descriptors and items over time."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from growth import over_time

mpl.use("agg")
import matplotlib.pyplot as plt

SHOWN = ("driver", "model", "tasks", "ledger", "raylet", "gcs")


def draw(samples: pd.DataFrame, path: Path) -> None:
    """Draw three panels above each other, as PNG."""
    figure, (memory, descriptors, items) = plt.subplots(3, 1, sharex=True, figsize=(9, 8), height_ratios=(3, 2, 1))
    for role in SHOWN:
        for panel, column in ((memory, "heap_mib"), (descriptors, "descriptors")):
            values = over_time(samples, role, column)
            panel.plot(values.index / 60, values, label=role, linewidth=1)
    moments = samples.groupby("seconds")[["store_mib", "items"]].max()
    memory.plot(moments.index / 60, moments["store_mib"], label="object store", linewidth=1, linestyle=":", color="grey")
    items.plot(moments.index / 60, moments["items"], linewidth=1, color="black")
    memory.set(ylabel="allocated memory, MiB", title="The largest process of each role")
    memory.legend(ncols=4, fontsize="small")
    descriptors.set(ylabel="open files and sockets")
    items.set(ylabel="items done", xlabel="minutes")
    for panel in (memory, descriptors, items):
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
