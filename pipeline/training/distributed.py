"""One process or several that train together, as torch's launcher (torchrun) starts them.

On a CPU one process a core is faster than one with threads where anything else runs beside it: threads of one operation
wait for the slowest of them, thousands of times a step, processes once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.models.forward import choose_device


@dataclass(frozen=True)
class Processes:
    """This one among all."""

    rank: int
    count: int
    device: torch.device

    @classmethod
    def join(cls, device: str) -> Processes:
        """Meet the others, if there are any.

        Raises:
            ConfigError: there is no such device.
        """
        count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        if count > 1 and device != "cpu" and torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        chosen = choose_device(device)
        if count > 1:
            dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        return cls(rank, count, chosen)

    def leave(self) -> None:
        if self.count > 1:
            dist.destroy_process_group()

    def share(self, network: nn.Module) -> Any:
        """The network, with gradients that are the mean of all processes'."""
        return network if self.count == 1 else DistributedDataParallel(network)

    def agree(self, mine: bool) -> bool:
        """What the first process says."""
        if self.count == 1:
            return mine
        said = torch.tensor([float(mine)], device=self.device)
        dist.broadcast(said, 0)
        return bool(said.item())

    def follow(self, network: nn.Module) -> None:
        """Take over the first process's numbers: norms count what their own process has seen."""
        if self.count > 1:
            for one in network.state_dict().values():
                dist.broadcast(one, 0)

    def summed(self, mine: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.count > 1:
            dist.all_reduce(mine)
        return mine
