"""A Ray cluster of a head and two machines, each a real node on this one, of which a test may remove one.

Prints its address; for the line ``remove`` on stdin it removes, without a warning, the machine where the model is at work,
and prints ``removed``. At the end of stdin all of it ends.
"""

from __future__ import annotations

import sys

import psutil
from ray.cluster_utils import Cluster


def busy(node: object) -> bool:
    """A copy of the model lives on this machine."""
    raylet = node.all_processes["raylet"][0].process  # type: ignore[attr-defined]
    children = psutil.Process(raylet.pid).children(recursive=True)
    return any("SegmentBatch" in " ".join(child.cmdline()) for child in children)


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    machines = [cluster.add_node(num_cpus=3, object_store_memory=200 * 2**20) for _ in range(2)]
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == "remove":
            cluster.remove_node(next(node for node in machines if busy(node)), allow_graceful=False)
            print("removed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
