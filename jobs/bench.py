"""``matteline bench``: measure the machine, the models, every stage, and the whole job."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options
from jobs.console import out, table

if TYPE_CHECKING:
    from pipeline.bench.driver import Bench

DEFAULT = ("mvanet-lite", "ben2-base")
BUSY = 0.3
"""Load average a core from which on other work is to blame."""


def bench(
    preset: Annotated[
        list[str] | None,
        typer.Option("--preset", "-p", help="A model, by name or .yaml file. Repeatable; absent, mvanet-lite and ben2-base."),
    ] = None,
    images: Annotated[
        str, typer.Option("--images", help="What to measure with: a folder of images or a manifest. Path or URI.")
    ] = "examples/manifest.csv",
    items: Annotated[
        int | None, typer.Option("--items", min=8, help="Items of the whole job; absent, about a minute's worth.")
    ] = None,
    json_file: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write everything here too.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A rough look within a minute: mvanet-lite, a few items.")] = False,
    rembg: Annotated[
        str | None, typer.Option("--rembg", metavar="COMMAND", help="rembg to compare with; absent, the one on the PATH.")
    ] = None,
    set_: options.Set = None,
    endpoint_url: options.Endpoint = None,
    accept_licence: options.AcceptLicence = False,
    verbose: options.Verbose = False,
) -> None:
    """Measure this machine's matrix rate, each model alone, each stage alone and the whole job, in one run.

    Weights of the MVANet presets that aren't here are stood in for by others of the same shapes: speed doesn't depend on the
    numbers. Nothing is downloaded for them.
    """
    from pipeline.bench.driver import FULL, QUICK, run_bench
    from pipeline.bench.peers import find_rembg
    from pipeline.log import set_up_logging
    from pipeline.paths import example_path

    set_up_logging(verbose=verbose)
    found = run_bench(
        preset or (DEFAULT[:1] if quick else DEFAULT),
        options.settings(set_, endpoint_url),
        example_path(images),
        items=items,
        effort=QUICK if quick else FULL,
        rembg=find_rembg(rembg),
        accept_licence=accept_licence,
    )
    _print(found)
    if json_file:
        Path(json_file).write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8")


def _print(found: Bench) -> None:
    machine = found.machine
    out.print(f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib:g} GiB{f'; {machine.gpu}' if machine.gpu else ''}")
    out.print(f"Python {machine.python}, {', '.join(f'{name} {version}' for name, version in machine.versions.items())}")
    if machine.commit:
        out.print(f"commit {machine.commit}")
    if machine.busy > BUSY:
        out.print(
            f"[bold]this machine was busy already (load {machine.busy:g} a core): the numbers are lower than they could be[/]"
        )
    for part in (_rates, _models, _stages, _jobs, _peers):
        part(found)


def _rates(found: Bench) -> None:
    lines = table("precision", ">GFLOP/s", ">threads", "by", title="\nmachine: products and convolutions")
    for precision, rate in found.rates.items():
        lines.add_row(precision, f"{rate.gflops:.0f}", str(rate.threads), rate.by)
    out.print(lines)


def _models(found: Bench) -> None:
    columns = ("preset", "weights", "engine", "in", ">batch", ">s/item", ">items/s", ">GFLOP/s", ">of the rate")
    lines = table(*columns, title="\nmodel alone")
    for one in found.models:
        speed = (f"{one.s_per_item:.3g}", f"{one.items_per_s:.3g}", "" if one.gflops is None else f"{one.gflops:.0f}")
        share = "" if one.share is None else f"{one.share:.0%}"
        lines.add_row(one.preset, one.weights, one.engine, one.precision, str(one.batch), *speed, share)
    out.print(lines)


def _stages(found: Bench) -> None:
    names = list(found.stages[0].ms) if found.stages else []
    heads = [f">{one.preset}, {one.megapixels:.1f} MP" for one in found.stages]
    lines = table("stage", *heads, title="\neach stage alone, ms an item on one core")
    for name in names:
        lines.add_row(name, *(f"{one.ms[name]:.1f}" for one in found.stages))
    out.print(lines)


def _jobs(found: Bench) -> None:
    columns = (
        "preset",
        ">items",
        ">whole, s",
        ">items/s",
        ">model alone",
        ">pipeline efficiency",
        ">object store, MiB an item",
    )
    lines = table(*columns, title="\nwhole job, once it is under way")
    for one in found.jobs:
        whole = one.whole
        speeds = (f"{whole.items_per_s:.3g}", f"{one.model_items_per_s:.3g}", f"{one.efficiency:.2f}")
        store = "" if whole.store_mib_per_item is None else f"{whole.store_mib_per_item:.1f}"
        lines.add_row(whole.preset, str(whole.items), f"{whole.whole_s:.1f}", *speeds, store)
    out.print(lines)


def _peers(found: Bench) -> None:
    for pair in found.peers:
        title = f"\npeers: u2netp, the same {pair.images} photos"
        lines = table("command", ">images/s", ">whole, s", ">images/s then", title=title)
        for peer in (pair.rembg, pair.ours):
            lines.add_row(peer.name, f"{peer.images_per_s:.2f}", f"{peer.whole_s:.1f}", f"{peer.images_per_s_whole:.2f}")
        out.print(lines)
        out.print(
            f"{pair.times_as_fast:.2f} times as fast, {pair.times_as_fast_whole:.2f} start-up included; "
            f"masks differ by {pair.mask_difference:.2f} of 255 on average"
        )
