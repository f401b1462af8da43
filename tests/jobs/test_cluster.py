"""The same command on a cluster that is already there, by its address."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.dataset as ds
import pytest

MATTELINE = str(Path(sys.executable).with_name("matteline"))


@pytest.fixture
def address() -> Iterator[str]:
    """A cluster of two machines, each a real Ray node on this one."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=4)
    yield cluster.address
    cluster.shutdown()


def test_an_existing_cluster_by_address(
    address: str, tmp_path: Path, make_photos: Callable[..., list[Path]], fake_preset: str
) -> None:
    make_photos(tmp_path / "photos", 6)
    # Ray's own variables of this process are none of the command's business, but for the token: once a local cluster has been
    # started here, those that follow ask for it.
    env = {key: value for key, value in os.environ.items() if key.startswith("RAY_AUTH_") or not key.startswith("RAY_")}

    def matteline(verb: str, output: str, address: str) -> subprocess.CompletedProcess[str]:
        command = [MATTELINE, verb, "-m", "photos", "-o", output, "-p", fake_preset, "--set", f"compute.ray_address={address}"]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=240)

    planned = matteline("plan", "out", address)
    assert "2 machines, 4 CPUs (as Ray counts them)" in " ".join(planned.stdout.split()), planned.stderr
    done = matteline("run", "out", address)
    assert done.returncode == 0, done.stderr
    assert "all 2 machines of the cluster must mount it" in done.stderr
    assert ds.dataset(tmp_path / "out" / "index", format="parquet").count_rows() == 6
    nowhere = matteline("run", "out2", "127.0.0.1:9")
    assert nowhere.returncode == 2, nowhere.stderr
    assert "no Ray cluster answers at 127.0.0.1:9" in nowhere.stderr
