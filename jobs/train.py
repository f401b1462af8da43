"""``matteline train``: train or fine-tune MVANet on a manifest with ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs import options


def train(
    manifest: Annotated[str, typer.Option("--manifest", "-m", help="Photos to train on, with a column of ground truth masks.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for checkpoints, the loss curve and weights. Resumes from its checkpoint."),
    ],
    start: Annotated[
        str | None,
        typer.Option("--start", metavar="MODEL", help="Model to fine-tune: mvanet-lite (default), mvanet, or a weights file."),
    ] = None,
    image_column: options.ImageColumn = None,
    id_column: options.IdColumn = None,
    training: Annotated[
        str | None,
        typer.Option(
            "--training",
            "-t",
            metavar="RECIPE",
            help="Training recipe: name of a bundled one, or your own .yaml file. Default: the one that fine-tunes the model.",
        ),
    ] = None,
    truth: Annotated[
        str, typer.Option("--truth", metavar="COLUMN", help="The manifest's column that names the ground truth masks.")
    ] = "truth_uri",
    composites: Annotated[
        Path | None,
        typer.Option("--composites", metavar="FOLDER", help="Folder with objects/ and backgrounds/ (Parquet) for composites."),
    ] = None,
    hours: Annotated[float, typer.Option("--hours", help="Stop after this many hours; the same command resumes.")] = 1000.0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads per process.")] = None,
    workers: Annotated[int, typer.Option("--workers", help="Processes that make samples, per training process.")] = 1,
    set_: options.StorageSet = None,
    endpoint_url: options.Endpoint = None,
    allow_root: options.AllowRoot = None,
    verbose: options.Verbose = False,
) -> None:
    """Fine-tune or train an MVANet, or resume.

    Fine-tune the bundled model on your own photos: matteline train --start mvanet-lite -m photos.csv -o out/mine.
    On several GPUs: torchrun --nproc-per-node 8 -m jobs.main train …
    """
    from pipeline.log import set_up_logging
    from pipeline.training.recipe import load_training

    recipe, columns = load_training(training, start), options.columns_of(image_column, id_column, None, None)
    files = options.files_of(set_, endpoint_url, allow_root)
    set_up_logging(verbose=verbose)

    from pipeline.training.loop import TrainOptions
    from pipeline.training.train import train as run

    chosen = TrainOptions(output, hours, workers=workers)
    run(
        recipe,
        chosen,
        files,
        manifest=manifest,
        columns=columns,
        truth=truth,
        composites=composites,
        device=device,
        threads=threads,
    )
