"""``matteline train``: MVANet of any size from a manifest with true masks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs import options


def train(
    manifest: Annotated[str, typer.Option("--manifest", "-m", help="Photos to learn from, with a column of true masks.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder for checkpoints, curve and weights. Again: it goes on.")
    ],
    training: Annotated[
        str, typer.Option("--training", "-t", help="The training's recipe: a bundled one's name, or your own .yaml file.")
    ] = "mvanet-lite",
    truth: Annotated[
        str, typer.Option("--truth", metavar="COLUMN", help="The manifest's column that names the true masks.")
    ] = "truth_uri",
    composites: Annotated[
        Path | None,
        typer.Option("--composites", metavar="FOLDER", help="objects/ and backgrounds/ to make composites of (Parquet)."),
    ] = None,
    hours: Annotated[float, typer.Option("--hours", help="Stop after so long; the same command goes on.")] = 1000.0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads of one process.")] = None,
    workers: Annotated[int, typer.Option("--workers", help="Processes that make samples, for each that trains.")] = 1,
    set_: options.Set = None,
    endpoint_url: options.Endpoint = None,
    allow_root: options.AllowRoot = None,
    verbose: options.Verbose = False,
) -> None:
    """Train an MVANet, or go on training one.

    On several GPUs: torchrun --nproc-per-node 8 -m jobs.main train …
    """
    from pipeline.log import set_up_logging
    from pipeline.training.recipe import load_training

    recipe = load_training(training)
    files = options.files_of(set_, endpoint_url, allow_root)
    set_up_logging(verbose=verbose)

    from pipeline.training.train import Asked, train_all

    train_all(Asked(manifest, truth, output, composites, hours, device, threads, workers), recipe, files)
