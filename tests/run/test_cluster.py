"""Join a cluster, check its machines, and wait for GPUs."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import ray
from ray.data import DataContext

from pipeline.config.job import Compute, load_job
from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError, Stopped
from pipeline.run import cluster, gpus, on_cluster
from pipeline.run.cluster import actors_at_work, await_gpus, check_workers
from pipeline.run.driver import may_use_gpus
from pipeline.run.gpus import will_use_gpus
from pipeline.run.pool import Node, Pool, fit_pool
from pipeline.run.ray_data import ray_data


@pytest.mark.usefixtures("ray_session")
def test_a_cluster_with_another_version_is_refused() -> None:
    node_ids = [node["NodeID"] for node in ray.nodes()]
    assert check_workers(node_ids) == node_ids
    with pytest.raises(ConfigError, match=r"has matteline \S+ \(source [0-9a-f]{12}\), this process has matteline 0.0.9"):
        check_workers(node_ids, "matteline 0.0.9")


@pytest.mark.usefixtures("ray_session")
def test_a_machine_that_has_gone_is_left_out_and_one_that_is_mute_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spot machine may go between the list and the question: no reason to refuse anything."""
    node_ids = [node["NodeID"] for node in ray.nodes()]
    assert check_workers(["0" * 56, *node_ids]) == node_ids
    monkeypatch.setattr(cluster, "_nodes", lambda: {"0" * 56: Node(4)})
    with pytest.raises(Stopped, match="cannot run anything: .*; run the same command again"):
        check_workers(["0" * 56])


def test_copies_are_counted_by_the_gpus_that_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 8.0, "CPU": 64.0})
    monkeypatch.setattr(ray, "available_resources", lambda: {"GPU": 5.0, "CPU": 1.0})
    fixed = Pool(2, 0.5, 0.0, 1, "cuda")
    assert actors_at_work(fixed) == 2
    assert actors_at_work(replace(fixed, max_actors=16)) == 6
    assert actors_at_work(replace(fixed, max_actors=4)) == 4  # others' work on the same cluster isn't ours
    assert actors_at_work(Pool(7, 1.0, 0.0, 1, "cuda", max_actors=16)) == 7  # some are still coming up
    assert actors_at_work(Pool(2, 0.0, 1.0, 1, "cpu", max_actors=16)) == 0  # nobody knows


@pytest.mark.parametrize(("nodes", "has_gpus"), [((Node(4), Node(8, 1)), True), ((Node(4), Node(8)), False)])
def test_where_the_model_will_run_is_asked_of_the_cluster(
    nodes: tuple[Node, ...], has_gpus: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ray_cluster", lambda _compute: nullcontext(nodes))
    assert will_use_gpus(Compute(ray_address="head:6379")) is has_gpus
    assert will_use_gpus(Compute(ray_address="head:6379", device="cuda"))
    assert not will_use_gpus(Compute(ray_address="head:6379", device="cpu"))


def test_actors_without_gpus_decide_the_precision_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "has_cuda", lambda: True)
    monkeypatch.setattr(cluster, "ray_cluster", lambda _compute: nullcontext((Node(8, 1),)))
    for address in (None, "head:6379"):
        assert will_use_gpus(Compute(ray_address=address))
        assert not will_use_gpus(Compute(ray_address=address, gpus_per_actor=0))


def test_a_model_that_cannot_use_gpus_leaves_the_detector_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """``auto`` of the detector is fp32 then, since the pool's actors have no GPU."""
    monkeypatch.setattr(gpus, "has_cuda", lambda: True)
    job = load_job(manifest="m", output="o", preset="u2netp", overrides=["recipe.detector=grounding-dino-tiny"])
    assert job.recipe.has_open_precision
    for providers, expected in ((["CPUExecutionProvider"], False), (["CUDAExecutionProvider"], True)):
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda providers=providers: providers)
        assert may_use_gpus(job) is expected


def test_why_a_cluster_cannot_be_joined_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_options: Any) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at head:6379") from RuntimeError("InvalidAuthToken")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(cluster, "_check_answers", lambda _address: None)
    with pytest.raises(ConfigError, match=r"join a Ray cluster at head:6379: Failed to connect .* \(InvalidAuthToken\)"):
        cluster._start_ray(Compute(ray_address="head:6379"))


def test_a_ray_that_does_not_start_can_be_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine Ray gives up on its own processes, with an exception of no class of its own."""

    def init(**_options: Any) -> None:
        raise Exception("The current node timed out during startup.")  # noqa: TRY002  as Ray does

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(Stopped, match=r"Ray did not start .* run the same command again .*: The current node timed out"):
        cluster._start_ray(Compute())


LISTENING = """
import os
import psutil
from pipeline.config.job import Compute
from pipeline.run.cluster import ray_cluster

with ray_cluster(Compute()):
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        for one in process.net_connections("inet"):
            if one.status == psutil.CONN_LISTEN:
                print(process.name(), one.laddr.ip)
    print("auth", os.environ.get("RAY_AUTH_MODE"))
"""


def test_a_ray_of_our_own_is_reached_from_this_machine_only(own_environment: Any) -> None:
    """Whoever reaches it can run code in it."""
    command = [sys.executable, "-c", LISTENING]
    done = subprocess.run(command, env=own_environment(), capture_output=True, text=True, check=True)
    lines = [line.rsplit(maxsplit=1) for line in done.stdout.splitlines()]
    assert ["auth", "token"] in lines
    found = {name: ip for name, ip in lines if name != "auth"}
    assert {"gcs_server", "raylet"} <= found.keys()
    assert {ip.removeprefix("::ffff:") for ip in found.values()} == {"127.0.0.1"}, found


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the autoscaler was asked for; machines are looked at every millisecond and are all fit."""
    found: list[Any] = []
    monkeypatch.setattr(cluster, "request_resources", lambda **asked: found.append(asked["bundles"]))
    monkeypatch.setattr(cluster, "POLL_S", 0.001)
    monkeypatch.setattr(cluster, "check_workers", lambda node_ids: node_ids)
    return found


def come(monkeypatch: pytest.MonkeyPatch, *gpus: float) -> None:
    """With every look so many GPUs are there; at last it stays so."""

    def looks() -> Iterator[dict[str, Node]]:
        for count in gpus:
            yield {"a": Node(4, count)}
        while True:
            yield {"a": Node(4, gpus[-1])}

    each = looks()
    monkeypatch.setattr(cluster, "_nodes", lambda: next(each))


def test_a_run_waits_for_gpus_and_asks_for_them(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    come(monkeypatch, 0, 1, 3)
    looks: list[None] = []
    assert await_gpus(Compute(wait_for_gpus=3), (Node(4),), lambda: looks.append(None)) == (Node(4, 3),)
    assert asked == [[{"GPU": 1}] * 3, []]  # and holds none of them for longer than it waits
    assert len(looks) == 3


def test_what_came_in_time_is_worked_with(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    come(monkeypatch, 0, 2)
    assert await_gpus(Compute(wait_for_gpus=3, wait_s=0.1), (Node(4),), lambda: None) == (Node(4, 2),)
    assert asked[-1] == []


def test_without_any_gpu_the_run_ends_resumable(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    come(monkeypatch, 0)
    with pytest.raises(Stopped, match=r"there was no GPU after 0.05 s \(compute.wait_for_gpus=3\); run the same command again"):
        await_gpus(Compute(wait_for_gpus=3, wait_s=0.05), (Node(4),), lambda: None)
    assert asked[-1] == []


def test_a_lost_lease_ends_the_waiting(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    come(monkeypatch, 0)

    def check() -> None:
        raise Stopped("the lease is another run's")

    with pytest.raises(Stopped, match="another run's"):
        await_gpus(Compute(wait_for_gpus=3), (Node(4),), check)
    assert asked[-1] == []


@pytest.mark.parametrize(("wait", "have"), [(None, 0), (2, 2), (2, 3)])
def test_nobody_waits_for_what_is_there_or_was_not_asked_for(asked: list[Any], wait: int | None, have: float) -> None:
    there = (Node(4, have),)
    assert await_gpus(Compute(wait_for_gpus=wait), there, lambda: None) is there
    assert asked == []


def test_gpus_that_are_waited_for_decide_the_precision() -> None:
    assert will_use_gpus(Compute(wait_for_gpus=1))
    assert not will_use_gpus(Compute(wait_for_gpus=1, device="cpu"))


@pytest.mark.parametrize(
    ("settings", "pool"),
    [
        ({"max_actors": 8}, Pool(2, 1.0, 0.0, 2, "cuda", max_actors=8)),
        ({"max_actors": 2}, Pool(2, 1.0, 0.0, 2, "cuda")),
        ({"max_actors": 1}, Pool(1, 1.0, 0.0, 1, "cuda")),
        ({"min_actors": 2}, Pool(2, 1.0, 0.0, 2, "cuda")),
        ({"min_actors": 2, "max_actors": 5}, Pool(2, 1.0, 0.0, 2, "cuda", max_actors=5)),
        ({"device": "cpu", "max_actors": 4}, Pool(1, 0.0, 1.0, 1, "cpu", max_actors=4)),
    ],
)
def test_a_pool_is_full_at_once_and_grows_by_what_comes(settings: dict[str, Any], pool: Pool) -> None:
    assert fit_pool(Compute(**settings), (Node(8, 2),)) == pool


def test_too_small_a_cluster_ends_the_run_resumable() -> None:
    with pytest.raises(Stopped, match=r"room for 2 of at least 3 actors \(compute.min_actors\)"):
        fit_pool(Compute(min_actors=3), (Node(8, 2),))


def test_a_fixed_number_and_one_that_grows_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="actors is a fixed number"):
        Compute(actors=2, max_actors=4)
    with pytest.raises(ValueError, match="min_actors=3 is more than max_actors=2"):
        Compute(min_actors=3, max_actors=2)


def test_the_driver_says_that_the_actors_make_a_graph(
    monkeypatch: pytest.MonkeyPatch, logged: list[logging.LogRecord], tmp_path: Path
) -> None:
    """What actors log does not reach the driver."""
    monkeypatch.setenv("MATTELINE_CACHE", str(tmp_path))
    (tmp_path / "weights").touch()
    recipe = Recipe(name="test", model="mvanet", weights="w", weights_sha256="a" * 64, frame_px=1024)
    job = SimpleNamespace(recipe=recipe, compute=Compute())
    plan: Any = SimpleNamespace(job=job, resolved=SimpleNamespace(weights=tmp_path / "weights", second=None))
    said = on_cluster._first_work(plan, Pool(1, 0, 1, 1, "cpu"))
    assert logged[0].getMessage() == "making the network's graph for this CPU: some seconds, once per weights and machine"
    assert said == f"loading the model, {logged[0].getMessage()}"
    assert on_cluster._first_work(plan, Pool(1, 1, 1, 1, "cuda")) == "loading the model"


def test_the_settings_of_a_callers_ray_data_are_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    context = DataContext.get_current()
    monkeypatch.setattr(context, "execution_no_progress_timeout_s", 77)
    monkeypatch.setattr(context, "target_max_block_size", 7 * 2**20)
    before = vars(context).copy()
    with pytest.raises(Stopped), ray_data(no_progress_s=5, block_mib=0):
        assert (context.execution_no_progress_timeout_s, context.target_max_block_size) == (5, 1)
        assert not context.enable_progress_bars
        raise Stopped("enough")
    assert vars(context) == before


def test_our_own_log_is_written_while_ray_is_muted() -> None:
    script = """
import os
from pipeline.log import log, set_up_logging
from pipeline.run.cluster import _muted_stderr
set_up_logging()
with _muted_stderr():
    os.write(2, b"noise of Ray's libraries")
    log.info("still starting Ray")
log.info("Ray has started")
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr
    assert [json.loads(line)["event"] for line in said.splitlines()] == ["still starting Ray", "Ray has started"]
