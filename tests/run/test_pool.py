"""Fit actors to clusters."""

from __future__ import annotations

import pytest

from pipeline.config.job import Compute
from pipeline.errors import ConfigError
from pipeline.run.pool import Node, Pool, fit_pool


@pytest.mark.parametrize(
    ("compute", "cluster", "pool"),
    [
        (Compute(), (Node(8, 2),), Pool(2, 1.0, 0.0, 2, "cuda")),
        (Compute(gpus_per_actor=0.5), (Node(8, 2),), Pool(4, 0.5, 0.0, 4, "cuda")),
        (Compute(gpus_per_actor=2), (Node(8, 4), Node(8, 1)), Pool(2, 2, 0.0, 1, "cuda")),
        (Compute(), (Node(4), Node(4), Node(4)), Pool(3, 0, 1, 1, "cpu")),
        (Compute(device="cpu"), (Node(8, 2),), Pool(1, 0, 1, 1, "cpu")),
        (Compute(device="cpu", gpus_per_actor=1), (Node(8, 2),), Pool(2, 1, 0, 2, "cpu")),
        (Compute(), (Node(0), Node(8)), Pool(1, 0, 1, 1, "cpu")),
        (Compute(), (Node(4),), Pool(1, 0, 1, 1, "cpu", 0.875)),
        (Compute(), (Node(3),), Pool(1, 0, 1, 1, "cpu", 0.375)),
        (Compute(), tuple(Node(1) for _ in range(10)), Pool(8, 0, 1, 1, "cpu", 0.375)),
    ],
)
def test_the_pool_fits_the_cluster(compute: Compute, cluster: tuple[Node, ...], pool: Pool) -> None:
    assert fit_pool(compute, cluster) == pool


@pytest.mark.parametrize(
    ("compute", "cluster", "message"),
    [
        (Compute(actors=7), (Node(8),), "need 9 CPUs; the cluster has 8"),
        (
            Compute(cpus_per_actor=4, actors=2),
            (Node(2),) * 8,
            "needs its CPUs on one machine, and 8 machines have room for 0 actors",
        ),
        (Compute(device="cuda"), (Node(8),), "there is no GPU"),
        (Compute(gpus_per_actor=2), (Node(8, 1),), "need 2 GPUs; the cluster has 1"),
        (Compute(gpus_per_actor=2), (Node(8, 1), Node(8, 1)), "the cluster has 2 on 2 machines, which is room for 0 actors"),
        (Compute(gpus_per_actor=1.5), (Node(8, 4),), "up to 1, or a whole number"),
    ],
)
def test_a_pool_that_cannot_be_is_refused(compute: Compute, cluster: tuple[Node, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit_pool(compute, cluster)


def test_actors_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.run.pool.local_cpus", lambda: 8)
    assert Pool(6, 0, 1, 3, "cpu").threads(Compute()) == 2
    assert Pool(20, 0, 1, 20, "cpu").threads(Compute()) == 1
    assert Pool(6, 0, 1, 3, "cpu").threads(Compute(threads_per_actor=5)) == 5


def test_an_onnx_model_without_cuda_takes_no_gpu() -> None:
    assert fit_pool(Compute(), (Node(8, 2),), gpu_model=False) == Pool(1, 0, 1, 1, "cpu")
    with pytest.raises(ConfigError, match="onnxruntime-gpu in place of onnxruntime, or set compute.gpus_per_actor=0"):
        fit_pool(Compute(gpus_per_actor=1), (Node(8, 2),), gpu_model=False)
    with pytest.raises(ConfigError, match="onnxruntime-gpu in place of onnxruntime, or use compute.device=auto or cpu"):
        fit_pool(Compute(device="cuda"), (Node(8, 2),), gpu_model=False)
    with pytest.raises(ConfigError, match="compute.gpus_per_actor is 0; remove one of the two"):
        fit_pool(Compute(device="cuda", gpus_per_actor=0), (Node(8, 2),), gpu_model=False)
    with pytest.raises(ConfigError, match="there is no GPU"):
        fit_pool(Compute(device="cuda"), (Node(8),), gpu_model=False)
