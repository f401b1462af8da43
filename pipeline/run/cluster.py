"""Join or start the Ray cluster that a run works on, check its machines, and wait for GPUs."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import ceil
from typing import Any

import ray
from ray._private import ray_constants
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.concurrency import local_cpus
from pipeline.config.job import Compute, Job
from pipeline.errors import ConfigError, Stopped
from pipeline.log import log, logging_to, waiting_for
from pipeline.run.gpus import address_of, runs_on_gpus
from pipeline.run.pool import ROOMY_CPUS, Cluster, Node, Pool

WORKER_START_S = 120.0
"""Seconds that a machine may take to start a process: it may have to unpack an environment first."""

POLL_S = 2.0
"""Seconds between two looks at the cluster while a run waits for machines."""

SMALL_FRAME_PX, MAX_CPU_ACTORS = 512, 4
"""A network whose frames are no larger is small: it gets several actors on a CPU, each with a part of the cores."""

MIN_ITEMS_PER_ACTOR = 32
"""An actor for fewer items takes longer to start than it saves."""


@contextmanager
def ray_cluster(compute: Compute) -> Iterator[Cluster]:
    """Join the named cluster (or the one already joined), or start one on this machine for this run only.

    Raises:
        ConfigError: No cluster answers at the address.
        Stopped: Ray's processes did not start in time.
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
    """Return the machines that are alive, by Ray's node id."""
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return {
        node["NodeID"]: Node(float(node["Resources"].get("CPU", 0)), float(node["Resources"].get("GPU", 0))) for node in alive
    }


def await_gpus(compute: Compute, cluster: Cluster, check: Callable[[], None]) -> Cluster:
    """Wait until the cluster has ``compute.wait_for_gpus`` GPUs, for ``compute.wait_s`` at most, and request them.

    Args:
        compute: How many GPUs to wait for, and how long.
        cluster: The machines now.
        check: Called while waiting. What it raises ends the run.

    Raises:
        Stopped: There is still no GPU.
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
            time.sleep(POLL_S)
            check()
            nodes = _nodes()
            have = sum(node.gpus for node in nodes.values())
    finally:
        request_resources(bundles=[])  # otherwise the request would hold them forever; from here on the actors do
    if not have:
        raise Stopped(
            f"there was no GPU after {compute.wait_s:g} s (compute.wait_for_gpus={wanted}); run the same command again"
        )
    if have < wanted:
        log.warning(f"only {have:g} of {wanted} GPUs are available after {compute.wait_s:g} s; the run uses these")
    return tuple(nodes[node_id] for node_id in check_workers(list(nodes)))


def actors_at_work(pool: Pool) -> float:
    """Return the actors that exist now. A growing pool is counted by its GPUs; on CPUs that is unknown and 0 is returned."""
    if pool.max_actors is None:
        return pool.actors
    if not pool.gpus:
        return 0.0
    taken = ray.cluster_resources().get("GPU", 0.0) - ray.available_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]
    return float(min(pool.max_actors, max(pool.actors, taken / pool.gpus)))


def dashboard_url() -> str | None:
    """Return the address of the cluster's dashboard; None without one, as in clusters started for one run."""
    url: str = ray.init(ignore_reinit_error=True, configure_logging=False).dashboard_url or ""
    return f"http://{url}" if url else None


def check_workers(node_ids: Sequence[str], mine: str | None = None) -> list[str]:
    """Check that all machines have this version of the package: another one could make other pixels or fail late.

    Returns:
        The machines that are still alive: spot machines can disappear.

    Raises:
        ConfigError: A machine has another version.
        Stopped: A machine that is alive does not answer.
    """

    def code() -> str:
        # A nested function is pickled by value, so the other machine does not need this package to run it.
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
                log.warning(f"the cluster's machine {node_id[:12]} is gone; the run continues without it")
                continue
            why = f"the cluster's machine {node_id[:12]} cannot run anything: {type(error).__name__}"
            raise Stopped(f"{why}; run the same command again when it can, or when it is gone") from error
        if theirs != mine:
            raise ConfigError(
                f"the cluster's machine {node_id[:12]} has {theirs}, this process has {mine}; install the same "
                "version on all, for example as one container image"
            )
        fit.append(node_id)
    return fit


def with_cpu_actors(job: Job, todo: int) -> Job:
    """Return the job with several actors for a small network, on this machine alone and without a GPU.

    The threads of one forward pass wait for the slowest, which is the one whose core also decodes or encodes. Large networks
    get one actor, because several would need too much memory.
    """
    compute, recipe = job.compute, job.recipe
    models = [recipe] if recipe.second is None else [recipe, recipe.second.recipe]
    is_small = recipe.model != "fake" and all(one.frame_px <= SMALL_FRAME_PX for one in models)
    is_chosen = compute.actors or compute.max_actors or compute.gpus_per_actor
    if not is_small or is_chosen or address_of(compute) or ray.is_initialized():
        return job
    if runs_on_gpus(compute, recipe):
        return job
    actors = max(1, min(MAX_CPU_ACTORS, local_cpus(), todo // MIN_ITEMS_PER_ACTOR))
    return job.model_copy(update={"compute": compute.model_copy(update={"actors": actors})})


def _start_ray(compute: Compute) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Task events are for a dashboard: 10 KB per task in memory, up to 100,000 tasks.
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    # Ray's C++ side logs an error about what Ray Data always does (ray-project/ray#53727).
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray_data = logging.getLogger("ray.data")
    ray_data.setLevel(logging.ERROR)
    for handler in ray_data.handlers:
        if isinstance(handler, logging.StreamHandler):  # its file keeps the tracebacks
            handler.setLevel(logging.CRITICAL)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = address_of(compute)
    try:
        with waiting_for("joining the Ray cluster" if address else "starting Ray, which takes some seconds"), _muted_stderr():
            _check_answers(address)
            if address:
                ray.init(address=address, **quiet)
            else:
                # CPUs are only bookkeeping in Ray. The actors get theirs on top, so that reading and writing never starve.
                slots = max(ROOMY_CPUS, local_cpus()) + (compute.actors or 1) * (compute.cpus_per_actor or 1)
                with _on_loopback():
                    ray.init(address="local", num_cpus=ceil(slots), include_dashboard=False, **quiet)
    except ConfigError:  # of _check_answers
        raise
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = f"{error} ({error.__cause__})" if error.__cause__ else error
        raise ConfigError(f"cannot start or join a Ray cluster at {address or 'this machine'}: {why}") from error
    except Exception as error:  # Ray's raylet waits 15 s for its agents, and Ray raises a bare Exception after 30 s
        raise Stopped(
            f"Ray did not start at {address or 'this machine'}; run the same command again when it is less busy: {error}"
        ) from error


def _check_answers(address: str | None) -> None:
    """Refuse an address where nothing answers. Ray itself would retry for minutes.

    Raises:
        ConfigError: Nothing answers at host:port.
    """
    host, colon, port = (address or "").rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise ConfigError(f"no Ray cluster answers at {address} ({error}); see compute.ray_address") from error


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let Ray listen on 127.0.0.1 only: it runs any code that it is sent. By default it wants a token, too (RAY_AUTH_MODE).

    ``ray.init`` replaces 127.0.0.1 by an address that other machines reach, except where Ray has no clusters (macOS, Windows).
    """
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _muted_stderr() -> Iterator[None]:
    """Discard stderr but for our own log: Ray's C++ code would mix text with the JSON lines. Errors are raised anyway."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with ExitStack() as stack:
            if sys.stderr is sys.__stderr__:
                stack.enter_context(
                    logging_to(stack.enter_context(os.fdopen(os.dup(kept), "w", buffering=1, errors="replace")))
                )
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
