"""Check everything that can be refused in seconds, before any image is read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from pipeline.config.job import Job
from pipeline.errors import ConfigError
from pipeline.manifest.id_set import IdSet, contains
from pipeline.manifest.manifest import Manifest, Scan, open_manifest, scan
from pipeline.models.resolve import check_licence, resolve
from pipeline.output.index import done_ids, ids_of_run
from pipeline.output.layout import Layout
from pipeline.output.output import Output
from pipeline.storage.allowlist import display_uri, suggest_allow_root
from pipeline.storage.files import Files


@dataclass(frozen=True)
class Plan:
    """A job that can run: its manifest was read once, its recipe is resolved, its output is writable."""

    job: Job
    manifest: Manifest
    output: Output
    rows: int
    refused: int
    """Rows that cannot be used and will be recorded as failed."""
    ids: IdSet
    """All items, sorted."""
    done: IdSet
    """Items that need no work; see ``without_done``."""
    todo: int
    backgrounds: Mapping[str, bytes] = field(default_factory=dict)
    """Background pictures of the renditions, by SHA-256."""
    deadline: float | None = None
    """Seconds since 1970 from which no more items are started; None for none."""


def make_plan(job: Job, files: Files, *, accept_licence: bool = False, gpu: bool = False) -> Plan:
    """Check a job as far as that needs no cluster.

    Args:
        job: The job, with its recipe not resolved yet.
        files: Access to storage.
        accept_licence: Allow weights that may not be used commercially.
        gpu: Whether the model will run on GPUs. ``recipe.precision=auto`` depends on it.

    Raises:
        Refused: With one sentence that says what is wrong and how to fix it.
    """
    check_licence(job.preset, accept_licence)
    manifest = open_manifest(job.manifest, files)
    root = files.absolute(job.output)
    if manifest.uri == manifest.base and f"{root}/".startswith(f"{manifest.base}/"):
        raise ConfigError(
            f"the output {root} is inside the manifest's folder {manifest.base}, so the next run would take its masks for "
            "images; choose an output beside it"
        )
    files.check_writable(root)
    resolved = resolve(job.recipe, files, gpu=gpu, limits=job.limits)
    resolved.check(job.compute.engine)
    job = job.with_recipe(resolved.recipe)
    output = Output(Layout(root, resolved.recipe.folder()), files)
    scanned = scan(manifest, files)
    _check_roots(job, manifest, scanned)
    nothing = scanned.ids[:0]
    return Plan(job, manifest, output, scanned.rows, scanned.refused, scanned.ids, nothing, scanned.rows, resolved.backgrounds)


def _check_roots(job: Job, manifest: Manifest, scanned: Scan) -> None:
    """Refuse a run that would exceed its error budget because images are outside the allowed roots.

    Raises:
        ConfigError: It names the root that most of those images are below.
    """
    outside = scanned.outside_roots
    if outside.rows / scanned.rows <= job.budget.max_failed_share:
        return
    root, count = outside.largest_group()
    share = "all" if count == outside.rows else f"{count} of them"
    raise ConfigError(
        f"{outside.rows} of {scanned.rows} rows of the manifest name images outside the allowed roots ({manifest.allowlist}), "
        f"{share} below {display_uri(root, quoted=False)}; {suggest_allow_root(root)} if they may be read"
    )


def without_done(plan: Plan, retry: Collection[str] = (), changed: IdSet | None = None) -> Plan:
    """Return the plan without the items that are in the index, failed ones included.

    Args:
        plan: The plan.
        retry: Error codes whose items are done again.
        changed: Sorted ids of further items to do again.

    Raises:
        StorageError: The index cannot be read.
    """
    done = done_ids(plan.output, retry)
    if changed is not None:
        done = done[~contains(changed, done)]
    return replace(plan, done=done, todo=plan.rows - int(contains(done, plan.ids).sum()))


def only_missing(plan: Plan, run_id: str) -> Plan:
    """Return the plan for the items that a pass was to do and that have no row of this run.

    Raises:
        StorageError: The index cannot be read.
    """
    planned = plan.ids[~contains(plan.done, plan.ids)]
    missing = planned[~contains(ids_of_run(plan.output, run_id), planned)]
    return replace(plan, done=plan.ids[~contains(missing, plan.ids)], todo=len(missing))
