"""The order of work: the Ray Data graph on one page, and the loop that watches it."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from pipeline.concurrency import local_cpus
from pipeline.config.job import Budget, Job
from pipeline.errors import ErrorBudgetExceeded, PipelineError, Stopped
from pipeline.log import RunCounters
from pipeline.models.load import can_use_gpu
from pipeline.run.cluster import address_of, will_use_gpus
from pipeline.run.ledger_actor import RayCrashLedger
from pipeline.run.preflight import COMMIT_CPUS, Plan, Pool
from pipeline.run.stages.commit import commit_batch
from pipeline.run.stages.decode import decode_batch
from pipeline.run.stages.read import ManifestSource
from pipeline.run.stages.segment import SegmentBatch
from pipeline.run.stages.write import Finish, write_batch
from pipeline.storage.files import Files

FOR_EVER = -1
"""What dies with its process or machine is repeated as often as it takes: the ledger finds the items that are to blame, and a
run that finishes nothing for ``compute.no_progress_s`` is given up."""

CALLS_PER_GPU = 2
"""Batches in hand at a model on a GPU: one is in the model, while the other is taken from the object store or written to it,
which takes as long. The model itself is called by one thread of its process alone (Ray sees to it), as deadlines need."""

SMALL_FRAME_PX, MAX_CPU_ACTORS = 512, 4
"""A network whose frames are no larger is small: as many copies of it on a CPU, each with its share of the cores."""

MIN_ITEMS_PER_ACTOR = 32
"""A copy for fewer items takes longer to start than it saves."""

MIN_BATCHES_PER_ACTOR = 4
"""With fewer than so many for each, full ones would leave an actor idle at the end."""

GPU_ROWS = 64
"""Items a task at most in an ordinary run on GPUs."""

BLOCK_MIB = 64
"""Decoded pixels a block in an ordinary run."""

BLOCKS, LARGER = 8_000, 4
"""The driver keeps 10 KB for every block until the run ends, so beyond this number they grow: up to so many times larger."""


def batch_size_for(plan: Plan, pool: Pool) -> int:
    """Images of one forward pass, which is also what Ray hands the model at once: one note in the ledger, one deadline."""
    return plan.job.compute.batch_size_for(plan.job.recipe.frame_px, pool.device)


def with_actors(job: Job, todo: int) -> Job:
    """On this machine alone, without a GPU: several copies of a small network with fewer threads each, where that pays.

    The threads of one forward pass wait for each other, so all of them for the one whose core decodes or encodes beside it.
    A large network's memory is worth more than that.
    """
    compute, recipe = job.compute, job.recipe
    small = recipe.model != "fake" and recipe.frame_px <= SMALL_FRAME_PX
    if (
        not small
        or compute.actors
        or compute.max_actors
        or compute.gpus_per_actor
        or address_of(compute)
        or ray.is_initialized()
    ):
        return job
    if can_use_gpu(recipe) and will_use_gpus(compute):
        return job
    actors = max(1, min(MAX_CPU_ACTORS, local_cpus(), todo // MIN_ITEMS_PER_ACTOR))
    return job.model_copy(update={"compute": compute.model_copy(update={"actors": actors})})


def rows_per_block(plan: Plan, pool: Pool) -> int:
    """Items a task: enough tasks to keep every actor fed, few enough that scheduling costs nothing.

    Without GPUs two passes are enough: nothing leaves a task before its block is done, and a model may take half a
    minute an image there. Where every actor gets several passes, a task has at least one.
    """
    a_pass = batch_size_for(plan, pool)
    most = grown(GPU_ROWS if pool.gpus else 2 * a_pass, plan.todo)
    actors = pool.most or pool.actors
    least = a_pass if plan.todo >= MIN_BATCHES_PER_ACTOR * actors * a_pass else 1
    return plan.job.compute.rows_per_block or max(least, min(most, plan.todo // (8 * actors)))


def block_mib(plan: Plan) -> int:
    """Decoded pixels that a task hands on at once: they, not items, decide how many blocks there are where photos are large."""
    return grown(BLOCK_MIB, plan.todo)


def grown(usual: int, todo: int) -> int:
    """How large a block is in a run of so many items: larger than usual only where there would be too many for the driver."""
    return min(LARGER * usual, max(usual, todo // BLOCKS))


def rows_per_part(plan: Plan) -> int:
    """Items an index part: a fortieth of the run, so that progress is seen and little is redone, and no more than the error
    budget is first judged after. Small parts are united when the run ends.
    """
    return plan.job.compute.rows_per_part or max(1, min(256, plan.job.budget.judged_after, plan.todo // 40))


def graph(plan: Plan, pool: Pool, run_id: str, files: Files) -> Dataset:
    """Manifest to index parts: a lazy dataset whose rows tell of committed parts."""
    # Retries have no other parameter yet than the ones that Ray says will change in 2.64; the dependency is capped there.
    warnings.filterwarnings("ignore", category=RayDeprecationWarning)
    job, compute = plan.job, plan.job.compute
    ledger, item_s = RayCrashLedger.start(), job.limits.item_s
    carried, threads = plan.manifest.carried, compute.fetch_threads
    finish = Finish(job.recipe, plan.layout, run_id, files, carried, threads, ledger, item_s, plan.backgrounds)
    fetching = {
        "files": files,
        "roots": plan.manifest.allowlist,
        "limits": job.limits,
        "threads": compute.fetch_threads,
        "block_mib": block_mib(plan),
        "ledger": ledger,
        "until": plan.until,
    }
    source = ManifestSource(plan.manifest, plan.done, plan.todo, files)
    made: Dataset = (
        ray.data.read_datasource(source, override_num_blocks=len(plan.manifest.fragments))
        .repartition(target_num_rows_per_block=rows_per_block(plan, pool))
        .map_batches(
            decode_batch,
            batch_format="pyarrow",
            batch_size=None,
            fn_kwargs=fetching,
            num_cpus=pool.task_cpus,
            max_retries=FOR_EVER,
        )
        .map_batches(
            SegmentBatch,
            fn_constructor_args=(
                *(job.recipe, job.storage, pool.device, compute.threads_per_actor, pool.actors_per_node),
                *(ledger, item_s, batch_size_for(plan, pool), compute.engine),
            ),
            batch_format="pyarrow",
            batch_size=batch_size_for(plan, pool),
            compute=_actors(pool),
            num_gpus=pool.gpus,
            num_cpus=pool.cpus,
            max_restarts=FOR_EVER,
            max_task_retries=FOR_EVER,
        )
        .map_batches(
            write_batch,
            batch_format="pyarrow",
            batch_size=None,
            fn_kwargs={"finish": finish},
            num_cpus=pool.task_cpus,
            max_retries=FOR_EVER,
        )
        .map_batches(
            commit_batch,
            batch_format="pyarrow",
            batch_size=rows_per_part(plan),
            fn_kwargs={"layout": plan.layout, "files": files},
            num_cpus=COMMIT_CPUS,
            max_retries=FOR_EVER,
        )
    )
    return made


def _actors(pool: Pool) -> ActorPoolStrategy:
    """Full from the start, since Ray Data's own growth takes minutes; it only grows by what wasn't there then."""
    calls = CALLS_PER_GPU if pool.device == "cuda" else 1
    if pool.most is None:
        return ActorPoolStrategy(size=pool.actors, max_concurrent_calls_per_actor=calls)
    return ActorPoolStrategy(min_size=pool.actors, max_size=pool.most, max_concurrent_calls_per_actor=calls)


def execute(plan: Plan, pool: Pool, run_id: str, files: Files, counters: RunCounters, check: Callable[[], None]) -> None:
    """Run the graph to its end.

    Args:
        meter: counts what is committed, and failures by code.
        check: called for every part; what it raises ends the run.

    Raises:
        ErrorBudgetExceeded: too many items failed; what was committed stays.
        PipelineError: what a worker refused (weights, settings).
    """
    # Else Ray Data holds no stage back before half of the object store is full, and a manifest's tiny blocks never fill it: all
    # of them would wait in the driver, which keeps 20 KB for each.
    os.environ.setdefault("RAY_DATA_DOWNSTREAM_CAPACITY_OBJECT_STORE_BUDGET_UTIL_THRESHOLD", "0")
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = block_mib(plan) * 2**20
    context.execution_no_progress_timeout_s = plan.job.compute.no_progress_s
    context.raise_original_map_exception = True  # else our own errors lose their type on the way to the driver
    try:
        made = graph(plan, pool, run_id, files)
        for part in made.iter_rows():
            counters.add(part["ok"], part["review"], part["failed"])
            counters.model_s += part["model_s"]
            counters.add_failures(json.loads(part["failures"]))
            check()
            if counters.done >= plan.job.budget.judged_after:
                judge(counters.counts, plan.job.budget)
        with suppress(AttributeError):  # Ray calls its statistics a developer's interface; they mustn't fail a run that is done
            counters.store_bytes += sum(_stored(made.get_stats_summary()))
    except ExecutionTimeoutError as error:
        raise Stopped(
            f"nothing was finished for {plan.job.compute.no_progress_s} s, so the run was given up; the same command "
            "continues. If the model is that slow here, raise compute.no_progress_s"
        ) from error
    except RayError as error:
        raise unwrap_ray_error(error) or error from error


def _stored(stats: Any) -> Iterator[int]:
    """Bytes of the blocks that each stage of a finished dataset put into the object store."""
    for stage in stats.operators_stats:
        yield stage.output_size_bytes.sum if stage.output_size_bytes else 0
    for before in stats.parents:
        yield from _stored(before)


def judge(counts: dict[str, int], budget: Budget) -> None:
    """Refuse to go on when too many items failed.

    Raises:
        ErrorBudgetExceeded: with the numbers.
    """
    done, failed = sum(counts.values()), counts["failed"]
    if done and failed / done > budget.max_failed_share:
        raise ErrorBudgetExceeded(
            f"{failed} of {done} items failed ({failed / done:.1%}); the budget is {budget.max_failed_share:.1%} "
            "(budget.max_failed_share). What is done stays done; mend the cause, then run the same command with --retry and "
            "the failures' codes"
        )


def unwrap_ray_error(error: BaseException | None) -> PipelineError | None:
    """The package's own error inside one of Ray's, if there is one; Ray's wrapper is an instance of both."""
    while error is not None:
        inner = getattr(error, "cause", None) or error.__cause__
        if isinstance(error, PipelineError) and not isinstance(error, RayError):
            return error
        error = inner
    return None
