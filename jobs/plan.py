"""``matteline plan``: what a run would do, before it does it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options
from jobs.console import out, span, table

if TYPE_CHECKING:
    from pipeline.run.cost import Price, Speed
    from pipeline.run.preflight import Plan, Pool
    from pipeline.storage.files import Files


def plan(
    manifest: options.Manifest = None,
    output: options.Output = None,
    preset: options.Preset = None,
    rendition: options.Renditions = None,
    set_: options.Set = None,
    job: options.JobFile = None,
    endpoint_url: options.Endpoint = None,
    allow_root: options.AllowRoot = None,
    price: Annotated[
        str | None,
        typer.Option("--price", metavar="MACHINE=PRICE", help="What one machine costs an hour, e.g. g6.xlarge=0.80."),
    ] = None,
    accept_licence: options.AcceptLicence = False,
    verbose: options.Verbose = False,
) -> None:
    """Say what would run: items, what is done already, bytes, the cluster, hours and money.

    Its speed is that of the last run of this recipe into the same output, or that of the model alone, measured now.
    """
    from pipeline.log import set_up_logging
    from pipeline.models.load import can_use_gpu
    from pipeline.run.cluster import ray_cluster, will_use_gpus
    from pipeline.run.cost import Price, look_at_sizes
    from pipeline.run.graph import with_actors
    from pipeline.run.preflight import fit_pool, make_plan, without_done
    from pipeline.storage.files import Files

    set_up_logging(verbose=verbose)
    settled = options.job_of(manifest, output, preset, job, options.settings(set_, endpoint_url), allow_root, rendition)
    named = Price.parse(price) if price else None
    files = Files(settled.storage)
    gpu = settled.recipe.precision == "auto" and will_use_gpus(settled.compute)
    made = without_done(make_plan(settled, files, accept_licence=accept_licence, gpu=gpu), files)
    made = replace(made, job=with_actors(made.job, made.todo))
    with ray_cluster(made.job.compute) as cluster:
        pool = fit_pool(made.job.compute, cluster, gpu_model=can_use_gpu(settled.recipe))
    lines = table("", "")
    lines.add_row("manifest", made.manifest.uri)
    lines.add_row("output", made.layout.folder)
    lines.add_row("items", f"{made.rows}, of which {made.rows - made.todo} are done and {made.todo} to do")
    if made.refused:
        lines.add_row("", f"{made.refused} rows can't be used (box or URI) and will be recorded as failed")
    cpus, gpus = sum(node.cpus for node in cluster), sum(node.gpus for node in cluster)
    machines = "1 machine" if len(cluster) == 1 else f"{len(cluster)} machines"
    lines.add_row("cluster", f"{machines}, {cpus:g} CPUs (as Ray counts them), {gpus:g} GPUs")
    where = f"{pool.gpus:g} GPU each" if pool.gpus else "on CPUs"
    lines.add_row("model", f"{settled.recipe.name}, {pool.actors} {'copy' if pool.actors == 1 else 'copies'}, {where}")
    if made.job.recipe.renditions:
        lines.add_row("renditions", ", ".join(file.name for one in made.job.recipe.renditions for file in one.files))
    if made.todo:
        sizes = look_at_sizes(made.manifest, files)
        about = sizes.of(made.todo)
        if about is not None:
            unit, power = ("GiB", 30) if about[0] >= 2**30 else ("MiB", 20)
            total, off = (number / 2**power for number in about)
            lines.add_row("images", f"about {total:.3g} ± {off:.2g} {unit}, by the size of {len(sizes.found)} of them")
        if sizes.unknown:
            lines.add_row("", f"{sizes.unknown} of {sizes.unknown + len(sizes.found)} that were looked at can't be found")
        working = [node for node in cluster if (node.gpus if pool.gpus else node.cpus)]  # a head does no work
        for name, text in _estimated(made, pool, files, machines=len(working), price=named):
            lines.add_row(name, text)
    out.print(lines)


def _estimated(made: Plan, pool: Pool, files: Files, *, machines: int, price: Price | None) -> list[tuple[str, str]]:
    from pipeline.run.cost import estimate

    speed = _speed(made, pool, files)
    found = estimate(made.todo, speed, pool.actors, pool.gpus, machines, price)
    lines = [("time", f"about {span(3600 * found.hours)}: {speed.known}")]
    if pool.gpus:
        lines.append(("GPU hours", f"{found.gpu_hours:.3g}"))
    if price is not None and found.money is not None:
        count = "1 machine" if machines == 1 else f"{machines} machines"
        lines.append(
            ("cost", f"about {found.money:.2f}: {count} {price.machine} that the model runs on, at {price.per_hour:g} an hour")
        )
    return lines


def _speed(made: Plan, pool: Pool, files: Files) -> Speed:
    """Measured in earnest if there was a run, else the model alone on this machine."""
    from pipeline.bench.model import seconds_per_item
    from pipeline.concurrency import local_cpus
    from pipeline.output.run_record import records
    from pipeline.run.cost import Speed, measured_speed

    known = measured_speed(records(made.layout, files), pool.gpus)
    if known is not None:
        return known
    compute = made.job.compute
    threads = compute.threads_per_actor or max(1, local_cpus() // pool.actors_per_node)
    batch = compute.batch_size_for(made.job.recipe.frame_px, pool.device)
    each_s = seconds_per_item(made.job.recipe, files, device=pool.device, threads=threads, batch=batch, engine=compute.engine)
    return Speed(1 / each_s, f"the model takes {each_s:.3g} s an item on this machine, measured alone, {pool.actors} at once")
