"""A Ray cluster of a head and some machines, each a real node on this one, of which a test may take some away.

The arguments are JSON: ``machines`` (names), ``cpus`` and ``gpus`` of each (Ray believes what it is told), ``cache`` (a folder,
in which each machine keeps weights in one of its own). Processes of a machine have its name in MACHINE.

Prints its address. For a line on stdin it does something and then prints the line again::

    add NAME      a further machine
    drain NAME    the machine is going to be taken away, as a cluster says when a spot machine is recalled
    remove NAME   without a warning; for ``remove busy`` the machine where the model is at work

At the end of stdin all of it ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

RAY = str(Path(sys.executable).with_name("ray"))
DRAINING_S = 60


def busy(node: Any) -> bool:
    """A copy of the model lives on this machine."""
    children = psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True)
    return any("SegmentBatch" in " ".join(child.cmdline()) for child in children)


class Machines:
    """The cluster, and its machines by name."""

    def __init__(self, machines: list[str], cpus: float = 3, gpus: float = 0, cache: str | None = None) -> None:
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.cpus, self.gpus, self.cache = cpus, gpus, cache
        self.nodes: dict[str, Any] = {}
        for name in machines:
            self.add(name)

    def add(self, name: str) -> None:
        env = {"MACHINE": name} | ({"MATTELINE_CACHE": f"{self.cache}/{name}"} if self.cache else {})
        has = {"num_cpus": self.cpus, "num_gpus": self.gpus, "object_store_memory": 200 * 2**20}
        self.nodes[name] = self.cluster.add_node(env_vars=env, **has)

    def drain(self, name: str) -> None:
        node = ["--address", self.cluster.address, "--node-id", self.nodes[name].node_id]
        why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a test"]
        command = [RAY, "drain-node", *node, *why, "--deadline-remaining-seconds", str(DRAINING_S)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def remove(self, name: str) -> None:
        if name == "busy":
            name = next(one for one, node in self.nodes.items() if busy(node))
        self.cluster.remove_node(self.nodes.pop(name), allow_graceful=False)


def main() -> None:
    machines = Machines(**json.loads(sys.argv[1]))
    print(machines.cluster.address, flush=True)
    for line in sys.stdin:
        deed, name = line.split()
        getattr(machines, deed)(name)
        print(line.strip(), flush=True)
    machines.cluster.shutdown()


if __name__ == "__main__":
    main()
