"""Throughput, what is busy, and what settings cost, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from sweeps import Run

mpl.use("agg")
import matplotlib.pyplot as plt


def draw(growing: Sequence[Run], sweeps: Mapping[str, Sequence[Run]], path: Path) -> None:
    """Three panels beside each other, as PNG.

    Args:
        sweeps: by the name of the setting that each moves.
    """
    figure, (speed, busy, settings) = plt.subplots(1, 3, figsize=(15, 4.5))
    gpus = [run.case.gpus for run in growing]
    speed.loglog(gpus, [run.ideal for run in growing], linestyle=":", color="grey", label="ideal")
    speed.loglog(gpus, [run.result.items_per_s for run in growing], marker="o", color="black", label="simulated")
    speed.set(xlabel="GPUs", ylabel="items a second", title="Throughput")
    for name in growing[0].result.busy:
        busy.semilogx(gpus, [100 * run.result.busy[name] for run in growing], marker=".", label=name)
    busy.set(xlabel="GPUs", ylabel="% of the time at work", title="What is busy", ylim=(0, 105))
    for name, runs in sweeps.items():
        values = [getattr(run.case, name) for run in runs]
        settings.semilogx(values, [run.share for run in runs], marker=".", label=name)
    settings.set(
        xlabel="value", ylabel="share of the ideal", title=f"One setting moved, {sweeps_gpus(sweeps)} GPUs", ylim=(0, 1.05)
    )
    for panel in (speed, busy, settings):
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    for panel in (speed, busy):
        panel.set_xticks(gpus, [str(count) for count in gpus], minor=False)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def sweeps_gpus(sweeps: Mapping[str, Sequence[Run]]) -> str:
    """How many GPUs the sweeps had, in words."""
    return " or ".join(str(gpus) for gpus in sorted({run.case.gpus for runs in sweeps.values() for run in runs}))
