"""Train in one process, or in several that torch's launcher (torchrun) starts.

On a shared CPU, one process per core is faster than one process with threads: the threads of an operation wait for the slowest
of them thousands of times per step, the processes once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import cv2
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.models.forward import choose_device


@dataclass(frozen=True)
class Processes:
    """This process among all that train together."""

    rank: int
    count: int
    device: torch.device

    @classmethod
    def connect(cls, device: str) -> Processes:
        """Connect to the other processes, if there are any.

        Raises:
            ConfigError: There is no such device.
        """
        count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        if count > 1 and device != "cpu" and torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        chosen = choose_device(device)
        if count > 1:
            dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        return cls(rank, count, chosen)

    def disconnect(self) -> None:
        """End the connection to the other processes."""
        if self.count > 1:
            dist.destroy_process_group()

    def data_parallel(self, network: nn.Module) -> Any:
        """Return the network with gradients that are averaged over all processes."""
        return network if self.count == 1 else DistributedDataParallel(network)

    def broadcast(self, flag: bool) -> bool:
        """Return the first process's flag."""
        if self.count == 1:
            return flag
        first = torch.tensor([float(flag)], device=self.device)
        dist.broadcast(first, 0)
        return bool(first.item())

    def copy_state(self, network: nn.Module) -> None:
        """Copy the first process's state into the network: the statistics of norms differ between processes."""
        if self.count > 1:
            for tensor in network.state_dict().values():
                dist.broadcast(tensor, 0)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes."""
        if self.count > 1:
            dist.all_reduce(values)
        return values


def use_one_thread(_worker: int = 0) -> None:
    """Use one thread in torch and OpenCV: a worker process has one core."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
