"""The cluster that a run works on: joined or started, looked over, and waited for."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.concurrency import local_cpus
from pipeline.config.job import Compute
from pipeline.errors import ConfigError, Stopped
from pipeline.log import log
from pipeline.models.forward import choose_device
from pipeline.run.preflight import ROOMY_CPUS, Cluster, Node, Pool

WORKER_START_S = 120.0
"""How long a cluster's machine may take to start a process: it may have to unpack an environment first."""

LOOK_S = 2.0
"""Between two looks at the cluster while a run waits for machines."""


@contextmanager
def ray_cluster(compute: Compute) -> Iterator[Cluster]:
    """Join the cluster that is named (or already joined), or start one on this machine for the run alone.

    Raises:
        ConfigError: no cluster answers at the address.
    """
    joined = ray.is_initialized()
    if not joined:
        _start_ray(compute)
    try:
        nodes = _nodes()
        if joined or address_of(compute):
            nodes = {node_id: nodes[node_id] for node_id in check_workers(list(nodes))}
        yield tuple(nodes.values())
    finally:
        if not joined:
            ray.shutdown()


def _nodes() -> dict[str, Node]:
    """What is there now, by Ray's id of the machine."""
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return {
        node["NodeID"]: Node(float(node["Resources"].get("CPU", 0)), float(node["Resources"].get("GPU", 0))) for node in alive
    }


def await_gpus(compute: Compute, cluster: Cluster, check: Callable[[], None]) -> Cluster:
    """The cluster with ``compute.wait_for_gpus``, or with fewer after ``compute.wait_s``; an autoscaler is asked for them.

    Args:
        check: called now and then while it waits; what it raises ends the run.

    Raises:
        Stopped: no GPU came.
    """
    wanted = compute.wait_for_gpus
    have = sum(node.gpus for node in cluster)
    if not wanted or have >= wanted:
        return cluster
    log.info(f"waiting up to {compute.wait_s:g} s for {wanted} GPUs; the cluster has {have:g}")
    request_resources(bundles=[{"GPU": 1}] * wanted)
    until = time.monotonic() + compute.wait_s
    try:
        while have < wanted and time.monotonic() < until:
            time.sleep(LOOK_S)
            check()
            nodes = _nodes()
            have = sum(node.gpus for node in nodes.values())
    finally:
        request_resources(bundles=[])  # it would hold them for ever; from here on the model does
    if not have:
        raise Stopped(f"no GPU came in {compute.wait_s:g} s (compute.wait_for_gpus={wanted}); the same command continues")
    if have < wanted:
        log.warning(f"only {have:g} of {wanted} GPUs came in {compute.wait_s:g} s; the run works with these")
    return tuple(nodes[node_id] for node_id in check_workers(list(nodes)))


def actors_at_work(pool: Pool) -> float:
    """Copies of the model that there are now, by the GPUs that are taken where their number grows; 0 where it grows on CPUs,
    as nobody can tell there.
    """
    if pool.most is None:
        return pool.actors
    if not pool.gpus:
        return 0.0
    taken = ray.cluster_resources().get("GPU", 0.0) - ray.available_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]
    return float(min(pool.most, max(pool.actors, taken / pool.gpus)))


def dashboard_url() -> str | None:
    """Where the joined cluster's dashboard is; None where it has none, as those that are started for one run."""
    url: str = ray.init(ignore_reinit_error=True, configure_logging=False).dashboard_url or ""
    return f"http://{url}" if url else None


def will_use_gpus(compute: Compute) -> bool:
    """Whether the model is going to run on GPUs, by what the cluster has; for this machine alone, by what PyTorch finds.

    Raises:
        ConfigError: no cluster answers at the address.
    """
    if compute.device != "auto":
        return compute.device == "cuda"
    if compute.wait_for_gpus:
        return True
    if not (ray.is_initialized() or address_of(compute)):
        return choose_device("auto").type == "cuda"
    with ray_cluster(compute) as cluster:
        return any(node.gpus for node in cluster)


def check_workers(node_ids: Sequence[str], mine: str | None = None) -> list[str]:
    """A machine with another version of this package would make other pixels, or fail late and strangely.

    Returns:
        Those that are still there: spot machines go when they like.

    Raises:
        ConfigError: naming the machine, what it has and what this process has.
        Stopped: a machine that seems to be there doesn't answer.
    """

    def code() -> str:
        # A nested function travels as it is: the other side need not have this package to run it.
        import hashlib
        import importlib.util
        from importlib.metadata import version
        from pathlib import Path

        found = importlib.util.find_spec("pipeline")
        if found is None or found.origin is None:
            return "no matteline"
        content = hashlib.sha256()
        for path in sorted(Path(found.origin).parent.rglob("*.py")):
            content.update(path.read_bytes())
        return f"matteline {version('matteline')} (source {content.hexdigest()[:12]})"

    mine = mine or code()
    here = {node_id: NodeAffinitySchedulingStrategy(node_id, soft=False) for node_id in node_ids}
    asked = {
        node_id: ray.remote(code).options(num_cpus=0, scheduling_strategy=there).remote() for node_id, there in here.items()
    }
    fit = []
    for node_id, answer in asked.items():
        try:
            theirs = ray.get(answer, timeout=WORKER_START_S)
        except RayError as error:
            if node_id not in _nodes():
                log.warning(f"the cluster's machine {node_id[:12]} has gone; the run works without it")
                continue
            why = f"the cluster's machine {node_id[:12]} can't run anything: {type(error).__name__}"
            raise Stopped(f"{why}; the same command continues when it can, or has gone") from error
        if theirs != mine:
            raise ConfigError(
                f"the cluster's machine {node_id[:12]} has {theirs}, this process has {mine}; install the same on all, best as "
                "one container image"
            )
        fit.append(node_id)
    return fit


def address_of(compute: Compute) -> str | None:
    """Of the cluster that is there already, if one is named."""
    return compute.ray_address or os.environ.get("RAY_ADDRESS") or None


def _start_ray(compute: Compute) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What every task did, for a dashboard that isn't there: 10 KB a task in memory, up to 100,000 tasks.
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    # Ray's C++ side writes an error to stderr about what Ray Data always does (ray-project/ray#53727).
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray_data = logging.getLogger("ray.data")
    ray_data.setLevel(logging.ERROR)
    for handler in ray_data.handlers:
        if isinstance(handler, logging.StreamHandler):  # its file keeps the tracebacks; the user gets our sentence
            handler.setLevel(logging.CRITICAL)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = address_of(compute)
    _check_answers(address)
    try:
        with _muted_stderr():
            if address:
                ray.init(address=address, **quiet)
            else:
                # CPUs are Ray's bookkeeping: the model's actors get theirs on top, so that reading and writing never starve.
                slots = max(ROOMY_CPUS, local_cpus()) + (compute.actors or 1) * (compute.cpus_per_actor or 1)
                ray.init(address="local", num_cpus=ceil(slots), include_dashboard=False, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = f"{error} ({error.__cause__})" if error.__cause__ else error
        raise ConfigError(f"no Ray cluster could be had at {address or 'this machine'}: {why}") from error


def _check_answers(address: str | None) -> None:
    """Ray itself would go on knocking for minutes.

    Raises:
        ConfigError: nobody answers at host:port.
    """
    host, colon, port = (address or "").rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise ConfigError(f"no Ray cluster answers at {address} ({error}); see compute.ray_address") from error


@contextmanager
def _muted_stderr() -> Iterator[None]:
    """Keep what C++ writes (that its log level was set) out of the JSON lines; errors come as exceptions all the same."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
