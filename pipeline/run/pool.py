"""Fit the model's actors to the machines of the cluster."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from pipeline.concurrency import local_cpus
from pipeline.config.job import Compute
from pipeline.errors import ConfigError, Stopped

FREE_CPUS = 2
"""CPUs that the actors must leave to reading and writing. With none, Ray Data waits forever without an error."""

ROOMY_CPUS = 4
"""With this many CPUs left, reading, decoding, writing and committing have one each."""

COMMIT_CPUS = 0.25
"""CPUs of a commit task. The share differs from the write stage's, so that Ray does not fuse the two: rows of a part would
then wait together with their pixels."""


class Node(NamedTuple):
    """Resources of one machine, as Ray counts them."""

    cpus: float
    gpus: float = 0.0


Cluster = tuple[Node, ...]


@dataclass(frozen=True)
class Pool:
    """The actors that hold the model, and the CPUs of the tasks around them."""

    actors: int
    gpus: float
    """GPUs per actor."""
    cpus: float
    """CPUs per actor."""
    actors_per_node: int
    """Actors that share the cores of a machine, if they are spread evenly."""
    device: str
    """``cpu`` or ``cuda``."""
    task_cpus: float = 1.0
    """CPUs of a decode or write task. Ray Data reserves CPUs from the first stage on and gives a later stage none until the
    earlier ones are done. Where few CPUs are left, smaller shares let items be committed before the last one is decoded."""
    max_actors: int | None = None
    """Actors that the pool may grow to when machines join; None for a fixed number."""

    def threads(self, compute: Compute) -> int:
        """Return the CPU threads of one actor on this machine, whose cores may be others than the driver's."""
        return compute.threads_per_actor or max(1, local_cpus() // self.actors_per_node)


NO_MODEL = Pool(1, 0.0, 1.0, 1, "cpu")
"""For stages that hold no model: one process on one CPU."""


def fit_pool(compute: Compute, cluster: Cluster, *, gpu_model: bool = True) -> Pool:
    """Return the pool that was asked for, or one actor per GPU, or one per machine without GPUs.

    Args:
        compute: What was asked for.
        cluster: The machines.
        gpu_model: Whether this installation can run the model on a GPU.

    Raises:
        ConfigError: The cluster has less than was asked for.
        Stopped: It has room for fewer actors than ``compute.min_actors`` at the moment.
    """
    pool = _fit(compute, cluster, gpu_model=gpu_model)
    if compute.min_actors and pool.actors < compute.min_actors:
        raise Stopped(
            f"the cluster has room for {pool.actors} of at least {compute.min_actors} actors (compute.min_actors); run the "
            "same command again when there are more machines, or wait for them with compute.wait_for_gpus"
        )
    grows = compute.max_actors is not None and compute.max_actors != pool.actors
    return replace(pool, max_actors=compute.max_actors) if grows else pool


def _fit(compute: Compute, cluster: Cluster, *, gpu_model: bool) -> Pool:
    cpus, gpus = sum(node.cpus for node in cluster), sum(node.gpus for node in cluster)
    share = compute.gpus_per_actor
    if share is None:
        share = 1.0 if gpus > 0 and compute.device != "cpu" and (gpu_model or compute.device == "cuda") else 0.0
    if share and not gpu_model:
        other = "set compute.gpus_per_actor=0" if compute.gpus_per_actor else "use compute.device=auto or cpu"
        raise ConfigError(f"this ONNX Runtime has no CUDA; install onnxruntime-gpu in place of onnxruntime, or {other}")
    if compute.device == "cuda" and not share:
        what = (
            "compute.gpus_per_actor is 0; remove one of the two" if gpus else "there is no GPU; use compute.device=auto or cpu"
        )
        raise ConfigError(f"compute.device is cuda, but {what}")
    if share > 1 and share != int(share):
        raise ConfigError(f"compute.gpus_per_actor={share:g}: use a part of one GPU, up to 1, or a whole number")
    if share:
        return _on_gpus(compute, cluster, share)
    per_actor = compute.cpus_per_actor if compute.cpus_per_actor is not None else 1.0
    room = _actor_room(cluster, per_actor, 0) if per_actor else int(cpus)
    machines = [node for node in cluster if node.cpus > 1] or [node for node in cluster if node.cpus]
    actors = compute.actors or max(1, min(len(machines), int(cpus - FREE_CPUS), compute.max_actors or room))
    _check_cpus(actors, per_actor, cluster, room=room)
    return Pool(actors, 0.0, per_actor, -(-actors // max(1, len(machines))), "cpu", _task_cpus(cpus - actors * per_actor))


def _on_gpus(compute: Compute, cluster: Cluster, share: float) -> Pool:
    per_actor = compute.cpus_per_actor or 0.0
    room = _actor_room(cluster, per_actor, share)
    actors = compute.actors or max(1, min(room, compute.max_actors or room))
    gpus, cpus = sum(node.gpus for node in cluster), sum(node.cpus for node in cluster)
    if actors > room:
        raise ConfigError(
            f"{actors} actors x {share:g} GPU need {actors * share:g} GPUs; the cluster has {gpus:g} on {len(cluster)} "
            f"machines, which is room for {room} actors. Lower compute.actors or compute.gpus_per_actor"
        )
    _check_cpus(actors, per_actor, cluster, room=room)
    per_node = -(-actors // sum(node.gpus > 0 for node in cluster))
    device = "cpu" if compute.device == "cpu" else "cuda"
    return Pool(actors, share, per_actor, per_node, device, _task_cpus(cpus - actors * per_actor))


def _check_cpus(actors: int, per_actor: float, cluster: Cluster, *, room: int) -> None:
    """Refuse more actors than the CPUs allow, with the numbers."""
    cpus = sum(node.cpus for node in cluster)
    if actors > room and actors * per_actor + FREE_CPUS <= cpus:
        raise ConfigError(
            f"{actors} actors x {per_actor:g} CPUs do not fit: each actor needs its CPUs on one machine, and "
            f"{len(cluster)} machines have room for {room} actors. Lower compute.actors or compute.cpus_per_actor"
        )
    if actors > room or actors * per_actor + FREE_CPUS > cpus:
        raise ConfigError(
            f"{actors} actors x {per_actor:g} CPUs, and {FREE_CPUS} for reading and writing, need "
            f"{actors * per_actor + FREE_CPUS:g} CPUs; the cluster has {cpus:g} on {len(cluster)} machines. "
            "Lower compute.actors or compute.cpus_per_actor"
        )


def _task_cpus(free: float) -> float:
    """Return the CPUs of a decode or write task: reading takes one, committing its small share, the rest is halved."""
    return 1.0 if free >= ROOMY_CPUS else (free - 1 - COMMIT_CPUS) / 2


def _actor_room(cluster: Cluster, cpus: float, gpus: float) -> int:
    """Return how many actors fit, each on one machine."""
    room = 0
    for node in cluster:
        by_cpu = int(node.cpus / cpus) if cpus else None
        by_gpu = int(node.gpus) // int(gpus) if gpus >= 1 else int(node.gpus) * int(1 / gpus) if gpus else None
        room += min(count for count in (by_cpu, by_gpu) if count is not None) if cpus or gpus else 0
    return room
