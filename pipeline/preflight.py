"""Everything that can be refused in seconds is refused here, with numbers, before any image is read."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import Compute, Job
from pipeline.errors import ConfigError
from pipeline.models.load import check_weights
from pipeline.segmenter import check_licence, pin_weights
from pipeline.storage.digests import Digests, contains
from pipeline.storage.files import Files
from pipeline.storage.index import done_ids
from pipeline.storage.layout import Layout
from pipeline.storage.manifest import Manifest, open_manifest, scan

FREE_CPUS = 2
"""Logical CPUs that the model must leave to reading and writing: with none, Ray Data waits for ever without a word."""


@dataclass(frozen=True)
class Plan:
    """A job that can run: its manifest read through once, its weights pinned, its output found writable."""

    job: Job
    manifest: Manifest
    layout: Layout
    rows: int
    refused: int
    done: Digests
    todo: int


@dataclass(frozen=True)
class Pool:
    """How the model is spread over the cluster."""

    actors: int
    gpus: float
    cpus: float
    a_node: int
    """Copies that share a node's cores, if they are spread evenly."""
    device: str


@dataclass(frozen=True)
class Cluster:
    """What Ray has: CPUs and GPUs in all, and the CPUs of each node."""

    cpus: float
    gpus: float
    node_cpus: tuple[float, ...]


def make_plan(job: Job, files: Files, *, accept_licence: bool = False) -> Plan:
    """Check all that needs no cluster.

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
    recipe, weights = pin_weights(job.recipe, files)
    check_weights(recipe, weights)
    if recipe.weights_sha256:
        job = job.with_weights_hash(recipe.weights_sha256)
    layout = Layout(output, recipe.folder())
    found = scan(manifest, files)
    done = done_ids(layout, files)
    already = int(contains(done, found.ids).sum())
    return Plan(job, manifest, layout, found.rows, found.refused, done, found.rows - already)


def fit_pool(compute: Compute, cluster: Cluster) -> Pool:
    """Spread the model over the cluster as asked, or one copy a GPU, or one a node where there are none.

    Raises:
        ConfigError: the cluster has less than was asked for.
    """
    share = compute.gpus_per_actor
    if share is None:
        share = 1.0 if cluster.gpus > 0 and compute.device != "cpu" else 0.0
    if compute.device == "cuda" and share == 0:
        raise ConfigError(f"compute.device is cuda, but the cluster has {cluster.gpus:g} GPUs; use compute.device=auto or cpu")
    roomy = [cpus for cpus in cluster.node_cpus if cpus > 1] or list(cluster.node_cpus)
    actors = compute.actors or (int(cluster.gpus / share) if share else len(roomy))
    if share and (not actors or actors * share > cluster.gpus):
        asked = max(actors, 1)
        raise ConfigError(
            f"{asked} actors x {share:g} GPU need {asked * share:g} GPUs; the cluster has {cluster.gpus:g}. "
            "Lower compute.actors or compute.gpus_per_actor"
        )
    cpus = compute.cpus_per_actor if compute.cpus_per_actor is not None else (0.0 if share else 1.0)
    if actors * cpus + FREE_CPUS > cluster.cpus:
        raise ConfigError(
            f"{actors} actors x {cpus:g} CPUs, and {FREE_CPUS} for reading and writing, need "
            f"{actors * cpus + FREE_CPUS:g} CPUs; the cluster has {cluster.cpus:g}. "
            "Lower compute.actors or compute.cpus_per_actor"
        )
    a_node = -(-actors // max(1, len(roomy)))
    return Pool(actors, share, cpus, a_node, "cpu" if share == 0 and compute.device == "auto" else compute.device)
