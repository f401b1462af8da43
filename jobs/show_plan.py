"""``matteline plan``: what a run would do, before it does it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from jobs import options
from jobs.console import out, table

if TYPE_CHECKING:
    from pipeline.preflight import Plan, Pool
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
    accept_licence: options.AcceptLicence = False,
    verbose: options.Verbose = False,
) -> None:
    """Say what would run: items, what is done already, the cluster, and the time from a quick measurement."""
    from pipeline.cluster import ray_cluster, will_use_gpus
    from pipeline.flow import with_copies
    from pipeline.log import set_up_logging
    from pipeline.models.load import can_use_gpu
    from pipeline.preflight import fit_pool, make_plan, without_done
    from pipeline.storage.files import Files

    set_up_logging(verbose=verbose)
    settled = options.job_of(manifest, output, preset, job, options.settings(set_, endpoint_url), allow_root, rendition)
    files = Files(settled.storage)
    gpu = settled.recipe.precision == "auto" and will_use_gpus(settled.compute)
    made = without_done(make_plan(settled, files, accept_licence=accept_licence, gpu=gpu), files)
    made = replace(made, job=with_copies(made.job, made.todo))
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
        lines.add_row("model time", _estimate(made, pool, files))
    out.print(lines)


def _estimate(made: Plan, pool: Pool, files: Files) -> str:
    from pipeline.bench.alone import seconds_per_item
    from pipeline.segmenter import local_cpus

    compute = made.job.compute
    threads = compute.threads_per_actor or max(1, local_cpus() // pool.a_node)
    batch = compute.images_a_pass(made.job.recipe.frame_px, pool.device)
    each_s = seconds_per_item(made.job.recipe, files, device=pool.device, threads=threads, batch=batch, engine=compute.engine)
    whole_s = each_s * made.todo / pool.actors
    hours, minutes = divmod(round(whole_s / 60), 60)
    span = f"{hours} h {minutes:02} min" if hours else f"{minutes} min" if whole_s > 90 else f"{whole_s:.0f} s"
    return f"about {span}: {each_s:.3g} s an item measured on this machine, {pool.actors} at once"
