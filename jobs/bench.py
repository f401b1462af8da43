"""``matteline bench``: measure the machine, the models, every stage, and the whole job."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options
from jobs.console import out, table

if TYPE_CHECKING:
    from pipeline.bench.driver import Bench

DEFAULT = ("mvanet-lite", "ben2-base")
BUSY = 0.3
"""Load average per core from which a warning is printed."""
IDLE = 0.8
"""Share of time that a GPU works, below which more than one actor per GPU is suggested."""


def bench(
    preset: Annotated[
        list[str] | None,
        typer.Option("--preset", "-p", help="A model: a name or a .yaml file. Repeatable. Default: mvanet-lite and ben2-base."),
    ] = None,
    images: Annotated[
        str, typer.Option("--images", help="A folder of images or a manifest to measure with. Path or URI.")
    ] = "examples/manifest.csv",
    items: Annotated[
        int | None, typer.Option("--items", min=8, help="Items in the whole job. Default: enough for about a minute.")
    ] = None,
    json_file: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Also write everything to this file.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Measure mvanet-lite roughly, within a minute.")] = False,
    gpu: Annotated[
        bool,
        typer.Option("--gpu", help="Measure only the GPU: every precision, CUDA graphs, torch.compile, and the transfers."),
    ] = False,
    set_: options.Set = None,
    endpoint_url: options.Endpoint = None,
    accept_licence: options.AcceptLicence = False,
    verbose: options.Verbose = False,
) -> None:
    """Measure this machine's matrix multiplications, each model alone, each stage alone and the whole job.

    MVANet weights that are not on this machine are replaced by dummy weights of the same shapes, which does not change the
    speed; nothing is downloaded. If rembg is on the PATH, `rembg p` is timed on the same photos.
    """
    from pipeline.bench.driver import run_bench
    from pipeline.errors import StorageError
    from pipeline.log import set_up_logging
    from pipeline.paths import example_path
    from pipeline.storage.files import Files
    from pipeline.storage.uris import parent

    set_up_logging(verbose=verbose)
    target = None if json_file is None else Files().absolute(json_file)
    if target is not None:  # before minutes of measurements
        try:
            Files().check_writable(parent(target))
        except StorageError as error:
            raise StorageError(f"--json {json_file}: {error}") from None
    result = run_bench(
        preset or (DEFAULT[:1] if quick else DEFAULT),
        options.settings(set_, endpoint_url),
        example_path(images),
        items=items,
        quick=quick,
        gpu=gpu,
        accept_licence=accept_licence,
    )
    _print_machine(result)
    for step in (_print_rates, _print_models, _print_transfers, _print_stages, _print_jobs, _print_peers):
        step(result)
    if target is not None:
        Files().write(target, f"{json.dumps(asdict(result), indent=2)}\n".encode())


def _print_machine(result: Bench) -> None:
    machine = result.machine
    out.print(f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib:g} GiB{f'; {machine.gpu}' if machine.gpu else ''}")
    out.print(f"Python {machine.python}, {', '.join(f'{name} {version}' for name, version in machine.versions.items())}")
    if machine.commit:
        out.print(f"commit {machine.commit}")
    if machine.busy > BUSY:
        out.print(
            f"[bold]the machine was busy before the measurement (load {machine.busy:g} per core): the speeds are too low[/]"
        )


def _print_rates(result: Bench) -> None:
    lines = table("precision", ">GFLOP/s", title="\nmachine: products and convolutions")
    for precision, rate in result.rates.items():
        lines.add_row(precision, f"{rate:.0f}")
    out.print(lines)


def _print_models(result: Bench) -> None:
    columns = ["preset", "weights", "engine", "in", ">batch", ">s/item", ">items/s", ">GFLOP/s", ">of the rate"]
    if gpu := any(one.peak_gib is not None for one in result.models):
        columns += [">peak, GiB", "mode", ">alpha off eager"]
    lines = table(*columns, title="\nmodel alone")
    for one in result.models:
        speed = (f"{one.s_per_item:.3g}", f"{one.items_per_s:.3g}", "" if one.gflops is None else f"{one.gflops:.0f}")
        share = "" if one.share is None else f"{one.share:.0%}"
        more = (f"{one.peak_gib or 0:.2f}", one.mode, f"{one.max_difference:.1e}") if gpu else ()
        lines.add_row(one.preset, one.weights, one.engine, one.precision, str(one.batch), *speed, share, *more)
    out.print(lines)


def _print_transfers(result: Bench) -> None:
    for one in result.transfers:
        lines = table(
            "step", ">ms", title=f"\n{one.preset}, {one.precision}: {one.width} x {one.height} px, {one.batch} at once"
        )
        for name, ms in one.ms.items():
            lines.add_row(name, f"{ms:.2f}")
        out.print(lines)
        out.print(f"{one.images_per_s:.1f} images/s by one process; the GPU works for about {one.busy:.0%} of the time")
        if one.busy < IDLE:
            out.print("two actors per GPU would use the rest: compute.gpus_per_actor=0.5")


def _print_stages(result: Bench) -> None:
    if not result.stages:
        return
    columns = [f">{one.preset}, {one.megapixels:.1f} MP" for one in result.stages]
    lines = table("stage", *columns, title="\neach stage alone, ms per item on one core")
    for name in result.stages[0].ms:
        lines.add_row(name, *(f"{one.ms[name]:.1f}" for one in result.stages))
    out.print(lines)


def _print_jobs(result: Bench) -> None:
    if not result.jobs:
        return
    columns = (">items", ">total, s", ">items/s", ">model alone", ">pipeline efficiency", ">object store, MiB per item")
    lines = table("preset", *columns, title="\nwhole job, in its steady state")
    for one in result.jobs:
        speeds = (f"{one.items_per_s:.3g}", f"{one.model_items_per_s:.3g}", f"{one.efficiency:.2f}")
        store = "" if one.store_mib_per_item is None else f"{one.store_mib_per_item:.1f}"
        lines.add_row(one.preset, str(one.items), f"{one.total_s:.1f}", *speeds, store)
    out.print(lines)


def _print_peers(result: Bench) -> None:
    for pair in result.peers:
        lines = table("command", ">images/s", ">total, s", title=f"\npeers: u2netp on the same {pair.images} photos")
        lines.add_row("rembg", f"{pair.rembg_per_s:.2f}", f"{pair.rembg_s:.1f}")
        lines.add_row("matteline run", f"{pair.ours_per_s:.2f}", f"{pair.ours_s:.1f}")
        out.print(lines)
        out.print(f"ours is {pair.speedup:.2f} times as fast; the masks differ by {pair.mask_difference:.2f} of 255 on average")
