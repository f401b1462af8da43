"""Describe what every stage of a run shares. It travels to the workers, so it holds settings and no connections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa

from pipeline.config.job import Job
from pipeline.config.recipe import Recipe
from pipeline.output.derived import wanted_files
from pipeline.output.output import Output
from pipeline.run.block_sizes import batch_size, block_mib
from pipeline.run.budget import has_passed
from pipeline.run.crash_ledger import CrashLedger, IsolatedBatch
from pipeline.run.pool import NO_MODEL, Pool
from pipeline.run.preflight import Plan
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files


@dataclass(frozen=True)
class StageContext:
    """Settings, places and limits of one run, for its stages."""

    job: Job
    output: Output
    run_id: str
    allowlist: AllowList
    """Locations that images may be read from."""
    carried: pa.Schema = field(default_factory=lambda: pa.schema([]))
    """Manifest columns that travel to the index."""
    backgrounds: Mapping[str, bytes] = field(default_factory=dict)
    """Background pictures of the renditions and of videos, by SHA-256."""
    replaces: bool = False
    """True if this run replaces objects of items that have a row."""
    deadline: float | None = None
    """Seconds since 1970 from which no more items are begun; None for none."""
    ledger: CrashLedger | None = None
    """None (tests, benchmarks): crashes are not isolated, and items have no time limit."""
    pool: Pool = NO_MODEL
    batch_size: int | None = None
    """Images per forward pass; None for the recipe's default."""
    block_mib: int = 64
    """Decoded pixels per block, in MiB."""

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return self.job.recipe

    @cached_property
    def rendition_recipes(self) -> dict[str, str]:
        """Fingerprint of the rendition of each file, by the file's name. Hashed once per process, not once per item."""
        return wanted_files(self.recipe)

    def is_late(self) -> bool:
        """Return whether the deadline has passed, so that nothing more is begun."""
        return has_passed(self.deadline)

    @property
    def files(self) -> Files:
        """Access to storage."""
        return self.output.files

    def isolated(self, stage: str, item_ids: list[str]) -> IsolatedBatch:
        """Enter a batch of a stage in the crash ledger."""
        return IsolatedBatch(self.ledger, stage, item_ids, self.job.limits.item_s)


def context_of(plan: Plan, pool: Pool, run_id: str, ledger: CrashLedger | None = None) -> StageContext:
    """Return what the stages of a run share.

    Args:
        plan: The job and its items to do.
        pool: Actors and their resources.
        run_id: Goes into every index row.
        ledger: The crash ledger; None if the workers add it.
    """
    return StageContext(
        plan.job,
        plan.output,
        run_id,
        plan.manifest.allowlist,
        plan.manifest.carried,
        plan.resolved.backgrounds,
        plan.replaces,
        plan.deadline,
        ledger,
        pool,
        batch_size(plan, pool),
        block_mib(plan, pool),
    )
