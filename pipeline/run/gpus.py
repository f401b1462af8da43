"""Find out whether a run needs Ray and whether it will use GPUs, without importing Ray where it is not used."""

from __future__ import annotations

import os
import sys

from pipeline.config.job import Compute
from pipeline.config.recipe import Recipe
from pipeline.log import waiting_for
from pipeline.models.devices import has_cuda


def is_small(compute: Compute, items: int) -> bool:
    """Return whether a run of this number of items should work in one process on this machine."""
    chosen = (compute.actors, compute.min_actors, compute.max_actors, compute.wait_for_gpus, compute.gpus_per_actor)
    cluster = address_of(compute) or has_joined_ray()
    return items <= compute.local_items and not cluster and all(one is None for one in chosen)


def will_use_gpus(compute: Compute) -> bool:
    """Return whether there will be GPUs to run on: those of the cluster, or without one, those that PyTorch finds here.

    Raises:
        ConfigError: No cluster answers at the address.
    """
    if compute.device != "auto":
        return compute.device == "cuda"
    if compute.gpus_per_actor == 0:
        return False
    if compute.wait_for_gpus:
        return True
    if address_of(compute) or has_joined_ray():
        with waiting_for("importing Ray", at_once="ray" not in sys.modules):
            from pipeline.run.cluster import ray_cluster

        with ray_cluster(compute) as cluster:
            return any(node.gpus for node in cluster)
    return has_cuda()


def runs_on_gpus(compute: Compute, recipe: Recipe | None) -> bool:
    """Return whether the models of a recipe will run on GPUs: there are some, and this installation can use them.

    Args:
        compute: Its ``device``, ``cuda``, is taken at its word: what cannot use a GPU is refused later.
        recipe: The recipe; None for models that run on any device.

    Raises:
        ConfigError: No cluster answers at the address.
    """
    if not will_use_gpus(compute):
        return False
    if compute.device == "cuda" or recipe is None:
        return True
    from pipeline.models.check import can_use_gpu  # slow, and not needed where there is no GPU

    return can_use_gpu(recipe)


def address_of(compute: Compute) -> str | None:
    """Return the address of an existing cluster, if one is named."""
    return compute.ray_address or os.environ.get("RAY_ADDRESS") or None


def has_joined_ray() -> bool:
    """Return whether this process has joined or started a Ray cluster."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
