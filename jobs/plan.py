"""``matteline plan``: show what a run would do, and what it would cost."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options
from jobs.console import out, span, table

if TYPE_CHECKING:
    from pipeline.run.cost import Price, Speed
    from pipeline.run.pool import Cluster, Pool
    from pipeline.run.preflight import Plan


def plan(
    manifest: options.Manifest = None,
    image_column: options.ImageColumn = None,
    id_column: options.IdColumn = None,
    box_column: options.BoxColumn = None,
    boxes_column: options.BoxesColumn = None,
    label_column: options.LabelColumn = None,
    output: options.Output = None,
    label: options.Label = None,
    preset: options.Preset = None,
    rendition: options.Renditions = None,
    set_: options.Set = None,
    job: options.JobFile = None,
    endpoint_url: options.Endpoint = None,
    allow_root: options.AllowRoot = None,
    price: Annotated[
        str | None,
        typer.Option("--price", metavar="MACHINE=MONEY", help="Price of one machine per hour, e.g. g6.xlarge=0.80."),
    ] = None,
    accept_licence: options.AcceptLicence = False,
    verbose: options.Verbose = False,
) -> None:
    """Check a job and estimate its size, running time and cost, without running it.

    If the output has no earlier run of this recipe, the model is timed on this machine for a few seconds.
    """
    from pipeline.log import set_up_logging, waiting_for
    from pipeline.run.cost import Price
    from pipeline.run.driver import changed_items, may_use_gpus
    from pipeline.run.preflight import check_model, make_plan, without_done
    from pipeline.storage.files import Files

    set_up_logging(verbose=verbose)
    pairs = options.settings(set_, endpoint_url) + options.run_settings(accept_licence=accept_licence)
    pairs += options.column_settings(image_column, id_column, box_column, boxes_column, label_column)
    pairs += options.label_settings(label)
    asked = options.job_of(manifest, output, preset, job, pairs, allow_root, rendition)
    parsed = Price.parse(price) if price else None
    files = Files(asked.storage)
    made = make_plan(asked, files, gpu=may_use_gpus(asked))
    with waiting_for("looking for changed images", at_once=False):
        made = without_done(made, asked.run.retry, changed_items(made))
    with waiting_for("checking the model"):
        check_model(made)
    made, pool, cluster = _machines(made)
    lines = table("", "")
    lines.add_row("manifest", made.manifest.uri)
    lines.add_row("output", made.output.folder)
    lines.add_row("items", f"{made.rows}, of which {made.rows - made.todo} are done and {made.todo} to do")
    if made.refused:
        lines.add_row("", f"{made.refused} rows cannot be used (box or URI) and will be recorded as failed")
    if cluster:
        cpus, gpus = sum(node.cpus for node in cluster), sum(node.gpus for node in cluster)
        machines = "1 machine" if len(cluster) == 1 else f"{len(cluster)} machines"
        lines.add_row("cluster", f"{machines}, {cpus:g} CPUs (as Ray counts them), {gpus:g} GPUs")
    else:
        lines.add_row("cluster", f"none: up to {made.job.compute.local_items} items are processed without Ray")
    where = f"{pool.gpus:g} GPU each" if pool.gpus else "on CPUs"
    lines.add_row("model", f"{asked.recipe.name}, {pool.actors} {'actor' if pool.actors == 1 else 'actors'}, {where}")
    for name, text in _helpers(made):
        lines.add_row(name, text)
    if made.job.recipe.renditions:
        lines.add_row("renditions", ", ".join(file.name for one in made.job.recipe.renditions for file in one.files))
    videos, frames = _videos(made)
    if videos:
        lines.add_row("videos", videos)
    if made.todo:
        for name, text in _images(made):
            lines.add_row(name, text)
        # A head node does no work.
        working = len([node for node in cluster if (node.gpus if pool.gpus else node.cpus)]) if cluster else 1
        for name, text in _estimate(made, pool, made.todo + frames // made.job.recipe.every, machines=working, price=parsed):
            lines.add_row(name, text)
    out.print(lines)


def _images(made: Plan) -> list[tuple[str, str]]:
    """Return the lines about the size of the images to do, from a sample."""
    from pipeline.log import waiting_for
    from pipeline.run.cost import sample_sizes

    with waiting_for("looking up the sizes of some images", at_once=False):
        sizes = sample_sizes(made.manifest, made.output.files)
    lines = []
    total = sizes.total(made.todo)
    if total is not None:
        unit, power = ("GiB", 30) if total[0] >= 2**30 else ("MiB", 20)
        size, error = (number / 2**power for number in total)
        lines.append(("images", f"about {size:.3g} ± {error:.2g} {unit}, from the sizes of {len(sizes.known)} of them"))
    if sizes.unknown:
        lines.append(("", f"{sizes.unknown} of {sizes.unknown + len(sizes.known)} sampled images cannot be found"))
    return lines


def _helpers(made: Plan) -> list[tuple[str, str]]:
    """Return the rows about the detector and the second model, if the recipe has them."""
    recipe = made.job.recipe
    detector = [("detector", _detector(made))] if recipe.detector is not None else []
    return [*detector, *([("second model", _second_model(made))] if recipe.second is not None else [])]


def _detector(made: Plan) -> str:
    """Return the name of the detector, and what it looks for."""
    from pipeline.manifest.prompts import may_have_names

    detector = made.job.recipe.detector
    assert detector is not None, "the recipe has a detector"
    names = ", ".join(repr(name) for name in detector.label[:5]) + (", …" if len(detector.label) > 5 else "")
    name = detector.preset or detector.model
    if not may_have_names(detector, made.manifest.carried):
        return f"{name}, which finds nothing: neither the manifest nor --label has names"
    by_row = may_have_names(detector.model_copy(update={"label": ()}), made.manifest.carried)
    which = [*(["the names in the manifest"] if by_row else []), *([names] if names else [])]
    return f"{name}, for {', else '.join(which)}; the time of the estimate leaves it out, unless an earlier run was measured"


def _second_model(made: Plan) -> str:
    """Return the name of the second model, and which items it sees."""
    from pipeline.run.cost import second_share

    second, share = made.job.recipe.second, second_share(made.resolved)
    assert second is not None, "the recipe has a second model"
    which = f"the items of a quality below {second.below:g}"
    if share is None:
        return f"{second.recipe.name}, for {which}; their share is not known, so the estimate counts all items"
    return f"{second.recipe.name}, for {which}: about {share:.0%}, as of the photos that the calibration was judged on"


def _videos(made: Plan) -> tuple[str, int]:
    """Return the number of videos and how long they are, in words, and the frames that are left to do, roughly.

    Without videos, there are no words.
    """
    from pipeline.log import waiting_for
    from pipeline.manifest.id_set import contains
    from pipeline.run.cost import sample_videos

    if not len(made.videos):
        return "", 0
    with waiting_for("reading the headers of videos", at_once=False):
        count, found = len(made.videos), sample_videos(made.manifest, made.output.files, made.job.limits)
    text, left = f"{count} of the items", 0
    if known := len(found.frames):
        frames, seconds = (sum(some) / known * count for some in (found.frames, found.seconds))
        text += f", about {frames:,.0f} frames, {span(seconds)}, by the headers of {known} of them"
        left = round(frames / count * int((~contains(made.done, made.videos)).sum()))
    return text + (f"; {found.unknown} cannot be read" if found.unknown else ""), left


def _machines(made: Plan) -> tuple[Plan, Pool, Cluster]:
    """Return the plan with its actors, the pool, and the machines; none for a run that is small enough for one process."""
    from pipeline.run.gpus import is_small
    from pipeline.run.local import local_pool

    if is_small(made.job.compute, made.todo):
        return made, local_pool(made.job.compute, made.job.recipe), ()
    from pipeline.log import waiting_for
    from pipeline.models.check import can_use_gpu

    with waiting_for("importing Ray", at_once=False):
        from pipeline.run.cluster import ray_cluster, with_cpu_actors
    from pipeline.run.pool import fit_pool

    made = replace(made, job=with_cpu_actors(made.job, made.todo))
    with ray_cluster(made.job.compute) as cluster:
        return made, fit_pool(made.job.compute, cluster, gpu_model=can_use_gpu(made.job.recipe)), cluster


def _estimate(made: Plan, pool: Pool, passes: int, *, machines: int, price: Price | None) -> list[tuple[str, str]]:
    from pipeline.run.cost import estimate

    speed = _speed(made, pool)
    found = estimate(passes, speed, pool.actors, pool.gpus, machines, price)
    lines = [("time", f"about {span(3600 * found.hours)}: {speed.source}")]
    if pool.gpus:
        lines.append(("GPU hours", f"{found.gpu_hours:.3g}"))
    if price is not None and found.money is not None:
        count = "1 machine" if machines == 1 else f"{machines} machines"
        text = f"about {found.money:.2f}: {count} {price.machine} with the model, at {price.per_hour:g} per hour"
        text += ", if it is as fast as this one" if speed.of_this_machine else ""
        lines.append(("cost", text))
    return lines


def _speed(made: Plan, pool: Pool) -> Speed:
    """Return the speed of an earlier run, or that of the model alone on this machine."""
    from pipeline.log import waiting_for
    from pipeline.output.run_record import records
    from pipeline.run.cost import Speed, measured_speed, second_share

    recipe = made.job.recipe
    known = measured_speed(records(made.output), recipe.fingerprint(), pool.gpus, recipe.every)
    if known is not None:
        return known
    from pipeline.bench.quick import seconds_per_item

    compute = made.job.compute
    batch = compute.batch_size_for(recipe.frame_px, pool.device)
    share = second_share(made.resolved)
    with waiting_for("timing the model on this machine"):
        per_item_s = seconds_per_item(
            recipe,
            made.output.files,
            device=pool.device,
            threads=pool.threads(compute),
            batch=batch,
            engine=compute.engine,
            second_share=1.0 if share is None else share,
        )
    what = "the model alone takes" if recipe.second is None else "the two models alone take"
    said = f"{what} {per_item_s:.3g} s per item on this machine, {pool.actors} in parallel"
    return Speed(1 / per_item_s, said, of_this_machine=True)
