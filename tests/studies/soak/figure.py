"""The soak as one picture: memory, descriptors and items over time."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from growth import over_time

mpl.use("agg")
import matplotlib.pyplot as plt

SHOWN = ("driver", "model", "tasks", "ledger", "raylet", "gcs")


def draw(samples: pd.DataFrame, path: Path) -> None:
    """Three panels above each other, as PNG."""
    figure, (memory, descriptors, items) = plt.subplots(3, 1, sharex=True, figsize=(9, 8), height_ratios=(3, 2, 1))
    for role in SHOWN:
        heap, open_now = (over_time(samples, role, column) for column in ("heap_mib", "descriptors"))
        memory.plot(heap.index / 60, heap, label=role, linewidth=1)
        descriptors.plot(open_now.index / 60, open_now, linewidth=1)
    store = samples.groupby("seconds")["store_mib"].max()
    memory.plot(store.index / 60, store, label="object store", linewidth=1, linestyle=":", color="grey")
    done = samples.groupby("seconds")["items"].max()
    items.plot(done.index / 60, done, linewidth=1, color="black")
    memory.set(ylabel="memory of its own, MiB", title="The largest process of each role")
    memory.legend(ncols=4, fontsize="small")
    descriptors.set(ylabel="open files and sockets")
    items.set(ylabel="items done", xlabel="minutes")
    for panel in (memory, descriptors, items):
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
