"""The picture of the soak: memory, descriptors and items over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from growth import over_time

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

SHOWN = ("driver", "model", "tasks", "ledger", "raylet", "gcs")


def draw(samples: pd.DataFrame, path: Path, faults: Sequence[tuple[float, str]] = ()) -> None:
    """Draw three panels above each other, as PNG. A fault is a time in seconds and its kind."""
    figure, (memory, descriptors, items) = plt.subplots(
        3, 1, sharex=True, figsize=(9, 8), layout="constrained", height_ratios=(3, 2, 1)
    )
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
    items.set(ylabel="frames done" if faults else "items done", xlabel="minutes")
    kinds, colours = sorted({kind for _, kind in faults}), mpl.colormaps["tab20"]
    for panel in (memory, descriptors, items):
        for seconds, kind in faults:
            panel.axvline(seconds / 60, color=colours(kinds.index(kind)), linewidth=0.8, linestyle="--", alpha=0.7)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    if faults:
        lines = [Line2D([], [], color=colours(number), linestyle="--", label=kind) for number, kind in enumerate(kinds)]
        figure.legend(handles=lines, loc="outside lower center", ncols=4, fontsize="small", title="faults")
    figure.savefig(path, dpi=90)
    plt.close(figure)
