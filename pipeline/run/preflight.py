"""Everything that can be refused in seconds is refused here, with numbers, before any image is read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pipeline.config.job import Compute, Job
from pipeline.errors import ConfigError, Stopped
from pipeline.manifest.id_set import IdSet, contains
from pipeline.manifest.manifest import Manifest, Scan, open_manifest, scan
from pipeline.models.backgrounds import pin_backgrounds
from pipeline.models.load import check_weights, resolve_precision
from pipeline.models.refiners.load import check_refiner
from pipeline.models.resolve import check_licence, pin_recipe
from pipeline.output.index import done_ids, ids_of_run
from pipeline.output.layout import Layout
from pipeline.quality.calibration import load_calibration
from pipeline.storage.allowlist import mended, shortened
from pipeline.storage.files import Files

FREE_CPUS = 2
"""Logical CPUs that the model must leave to reading and writing: with none, Ray Data waits for ever without a word."""

ROOMY_CPUS = 4
"""With so many left, each of reading, decoding, finishing and committing has one of its own."""

COMMIT_CPUS = 0.25
"""Another share than the stage before has, so that Ray doesn't fuse the two: a part's rows would then wait with pixels."""


@dataclass(frozen=True)
class Plan:
    """A job that can run: its manifest read through once, its weights pinned, its output found writable."""

    job: Job
    manifest: Manifest
    layout: Layout
    rows: int
    refused: int
    ids: IdSet
    """Of all its items, sorted."""
    done: IdSet
    """Of the items that need not be done; see ``without_done``."""
    todo: int
    backgrounds: Mapping[str, bytes] = field(default_factory=dict)
    """Files of the pictures that renditions have behind the object, by SHA-256."""
    until: float | None = None
    """From then on, in seconds since 1970, no more items are taken up; None for no end."""


@dataclass(frozen=True)
class Pool:
    """How the model is spread over the cluster."""

    actors: int
    gpus: float
    cpus: float
    actors_per_node: int
    """Copies that share a node's cores, if they are spread evenly."""
    device: str
    task_cpus: float = 1.0
    """Of decoding and finishing each, as Ray counts them. Ray Data reserves CPUs from the first stage on and gives a later
    stage none until the earlier ones are through: where few are left, smaller shares let an item be committed before the last
    is decoded."""
    most: int | None = None
    """Copies that there may be when more machines come; None where their number is fixed."""


class Node(NamedTuple):
    """What one machine of the cluster has, as Ray counts it."""

    cpus: float
    gpus: float = 0.0


Cluster = tuple[Node, ...]


def make_plan(job: Job, files: Files, *, accept_licence: bool = False, gpu: bool = False) -> Plan:
    """Check all that needs no cluster.

    Args:
        gpu: the model will run on GPUs; what ``recipe.precision=auto`` means depends on it.

    Raises:
        Refused: with one sentence that says what is wrong and how to mend it.
    """
    check_licence(job.preset, accept_licence)
    manifest = open_manifest(job.manifest, files)
    output = files.absolute(job.output)
    if manifest.uri == manifest.base and f"{output}/".startswith(f"{manifest.base}/"):
        raise ConfigError(
            f"the output {output} lies inside the manifest's folder {manifest.base}, so the next run would take its masks for "
            "images; choose an output beside it"
        )
    files.check_writable(output)
    renditions, backgrounds = pin_backgrounds(job.recipe.renditions, files, job.limits)
    pinned = pin_recipe(job.recipe.model_copy(update={"renditions": renditions}), files)
    recipe = resolve_precision(pinned.recipe, pinned.weights, gpu=gpu)
    check_weights(recipe, pinned.weights, job.compute.engine)
    check_refiner(recipe, pinned.refiner)
    load_calibration(recipe, pinned.calibration)
    job = job.with_recipe(recipe)
    layout = Layout(output, recipe.folder())
    found = scan(manifest, files)
    _check_strays(job, manifest, found)
    return Plan(job, manifest, layout, found.rows, found.refused, found.ids, found.ids[:0], found.rows, backgrounds)


def _check_strays(job: Job, manifest: Manifest, found: Scan) -> None:
    """A run that can only end over its error budget, for want of an allowed root, is better not begun.

    Raises:
        ConfigError: it names the root that most of those images lie below.
    """
    outside_roots = found.outside_roots
    if outside_roots.rows / found.rows <= job.budget.max_failed_share:
        return
    root, count = outside_roots.most()
    most = "all" if count == outside_roots.rows else f"{count} of them"
    raise ConfigError(
        f"{outside_roots.rows} of {found.rows} rows of the manifest name images outside the allowed roots ({manifest.allowlist}), {most} "
        f"below {shortened(root, quoted=False)}; {mended(root)} if they may be read"
    )


def without_done(plan: Plan, files: Files, retry: Collection[str] = (), changed: IdSet | None = None) -> Plan:
    """The plan without the items that its recipe's index has, failed ones too, except for those to be done again.

    Args:
        retry: error codes whose items are done again.
        changed: sorted digests of further items to be done again.

    Raises:
        StorageError: the index can't be read.
    """
    done = done_ids(plan.layout, files, retry)
    if changed is not None:
        done = done[~contains(changed, done)]
    return replace(plan, done=done, todo=plan.rows - int(contains(done, plan.ids).sum()))


def only_lost(plan: Plan, run_id: str, files: Files) -> Plan:
    """After a pass: what of its items has no row of this run, and so was lost on the way.

    Raises:
        StorageError: the index can't be read.
    """
    asked = plan.ids[~contains(plan.done, plan.ids)]
    lost = asked[~contains(ids_of_run(plan.layout, files, run_id), asked)]
    return replace(plan, done=plan.ids[~contains(lost, plan.ids)], todo=len(lost))


def fit_pool(compute: Compute, cluster: Cluster, *, gpu_model: bool = True) -> Pool:
    """Spread the model over the cluster as asked, or one copy a GPU, or one a machine where there are none.

    Args:
        gpu_model: this installation can run the model on a GPU.

    Raises:
        ConfigError: the cluster has less than was asked for.
        Stopped: it has room for fewer copies than ``compute.min_actors``, for now.
    """
    pool = _fitted(compute, cluster, gpu_model=gpu_model)
    if compute.min_actors and pool.actors < compute.min_actors:
        raise Stopped(
            f"the cluster has room for {pool.actors} of at least {compute.min_actors} copies of the model "
            "(compute.min_actors); the same command continues when there are more machines (compute.wait_for_gpus waits)"
        )
    return pool if compute.max_actors is None or compute.max_actors == pool.actors else replace(pool, most=compute.max_actors)


def _fitted(compute: Compute, cluster: Cluster, *, gpu_model: bool) -> Pool:
    """The pool for the machines that there are."""
    cpus, gpus = sum(node.cpus for node in cluster), sum(node.gpus for node in cluster)
    share = compute.gpus_per_actor
    if share is None:
        share = 1.0 if gpus > 0 and compute.device != "cpu" and gpu_model else 0.0
    if share and not gpu_model:
        raise ConfigError("this ONNX Runtime has no CUDA; install onnxruntime-gpu, or leave compute.gpus_per_actor at 0")
    if compute.device == "cuda" and not share:
        raise ConfigError(f"compute.device is cuda, but the cluster has {gpus:g} GPUs for it; use compute.device=auto or cpu")
    if share > 1 and share != int(share):
        raise ConfigError(f"compute.gpus_per_actor={share:g}: use a part of one GPU, up to 1, or whole ones")
    if share:
        return _on_gpus(compute, cluster, share)
    each = compute.cpus_per_actor if compute.cpus_per_actor is not None else 1.0
    room = _actor_room(cluster, each, 0) if each else int(cpus)
    roomy = [node for node in cluster if node.cpus > 1] or [node for node in cluster if node.cpus]
    actors = compute.actors or max(1, min(len(roomy), int(cpus - FREE_CPUS), compute.max_actors or room))
    if actors > room or actors * each + FREE_CPUS > cpus:
        raise ConfigError(
            f"{actors} actors x {each:g} CPUs, and {FREE_CPUS} for reading and writing, need "
            f"{actors * each + FREE_CPUS:g} CPUs; the cluster has {cpus:g} on {len(cluster)} machines. "
            "Lower compute.actors or compute.cpus_per_actor"
        )
    return Pool(actors, 0.0, each, -(-actors // max(1, len(roomy))), "cpu", _task_cpus(cpus - actors * each))


def _on_gpus(compute: Compute, cluster: Cluster, share: float) -> Pool:
    each = compute.cpus_per_actor or 0.0
    room = _actor_room(cluster, each, share)
    actors = compute.actors or max(1, min(room, compute.max_actors or room))
    gpus, cpus = sum(node.gpus for node in cluster), sum(node.cpus for node in cluster)
    if actors > room:
        raise ConfigError(
            f"{actors} actors x {share:g} GPU need {actors * share:g} GPUs; the cluster has {gpus:g} on {len(cluster)} "
            f"machines, room for {room}. Lower compute.actors or compute.gpus_per_actor"
        )
    if actors * each + FREE_CPUS > cpus:
        raise ConfigError(
            f"{actors} actors x {each:g} CPUs, and {FREE_CPUS} for reading and writing, need "
            f"{actors * each + FREE_CPUS:g} CPUs; the cluster has {cpus:g}. Lower compute.actors or compute.cpus_per_actor"
        )
    machines = sum(node.gpus > 0 for node in cluster)
    return Pool(
        actors,
        share,
        each,
        -(-actors // machines),
        "cpu" if compute.device == "cpu" else "cuda",
        _task_cpus(cpus - actors * each),
    )


def _task_cpus(free: float) -> float:
    """Reading takes one CPU whatever is asked, committing its small share; what is left is halved."""
    return 1.0 if free >= ROOMY_CPUS else (free - 1 - COMMIT_CPUS) / 2


def _actor_room(cluster: Cluster, cpus: float, gpus: float) -> int:
    """How many copies the machines have room for, each on one machine."""
    room = 0
    for node in cluster:
        by_cpu = int(node.cpus / cpus) if cpus else None
        by_gpu = int(node.gpus) // int(gpus) if gpus >= 1 else int(node.gpus) * int(1 / gpus) if gpus else None
        room += min(count for count in (by_cpu, by_gpu) if count is not None) if cpus or gpus else 0
    return room
