"""Check everything that can be refused in seconds, before any image is read."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.job import Job
from pipeline.config.recipe import Recipe
from pipeline.config.run_options import RunOptions
from pipeline.errors import ConfigError, ItemRefused
from pipeline.log import waiting_for
from pipeline.manifest.id_set import IdSet, contains, hash_ids
from pipeline.manifest.manifest import Manifest, Scan, item_named, open_manifest, scan, shared_name
from pipeline.manifest.names import NameTemplate, name_keys
from pipeline.manifest.snapshot import Snapshot
from pipeline.manifest.videos import Kind
from pipeline.models.resolve import ResolvedRecipe, check_licence, resolve
from pipeline.output.identity import check_identity
from pipeline.output.index import done_ids, ids_of_run, read_index
from pipeline.output.output import Output, find_outputs
from pipeline.output.settings import differences, eases_detector, folders_in_the_way, read_settings, settings_of
from pipeline.run.budget import exceeds
from pipeline.storage.allowlist import display_uri, suggest_allow_root
from pipeline.storage.files import Files
from pipeline.storage.uris import check_utf8
from pipeline.video.extra import check_usable


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
    videos: IdSet
    """Those that are videos, sorted."""
    done: IdSet
    """Items that need no work; see ``without_done``."""
    todo: int
    resolved: ResolvedRecipe
    """The recipe with its files on this machine."""
    settings: dict[str, Any]
    """Settings that the output records; see ``output.settings``."""
    replaces: bool = False
    """True if some items to do have a row, so that their objects are replaced."""
    deadline: float | None = None
    """Seconds since 1970 from which no more items are begun; None for none."""
    same_results: str | None = None
    """Fingerprint of the recorded recipe, if its items need no work although it differs; see ``eases_detector``."""
    only: Kind | None = None
    """The items that ``todo`` counts; None for all."""


def videos_to_do(plan: Plan) -> int:
    """Return the number of videos to do."""
    return int((~contains(plan.done, plan.videos)).sum())


def by_kind(plan: Plan) -> Iterator[Plan]:
    """Yield a plan for the pictures to do, and one for the videos, if there are any of them."""
    videos = videos_to_do(plan)
    if plan.todo > videos:
        yield dataclasses.replace(plan, todo=plan.todo - videos, only="pictures" if len(plan.videos) else None)
    if videos:
        yield dataclasses.replace(plan, todo=videos, only="videos")


def make_plan(
    job: Job,
    files: Files,
    *,
    gpu: bool = False,
    ready: Snapshot | None = None,
) -> Plan:
    """Check a job as far as that needs no cluster.

    Args:
        job: The job, with its recipe not resolved yet.
        files: Access to storage.
        gpu: Whether the model will run on GPUs. ``recipe.precision=auto`` depends on it.
        ready: Leave out files of the manifest that are not in this snapshot. None: use all files.

    Raises:
        Refused: With one sentence that says what is wrong and how to fix it.
    """
    check_licence(job.preset, job.run.accept_licence)
    with waiting_for("reading the manifest", at_once=ready is None):  # a folder is listed here, a table is read below
        manifest = open_manifest(job.manifest, files, NameTemplate(job.output.name), job.columns, ready=ready)
    root = _check_root(job, manifest, files)
    with waiting_for("reading the recipe's files", at_once=False):
        resolved = resolve(job.recipe, files, gpu=gpu, limits=job.limits)
    job = job.with_recipe(resolved.recipe)
    output = Output.at(root, files)
    settings = settings_of(resolved.recipe, job.output.name)
    recorded = check_settings(output, resolved.recipe, settings, replace=job.run.replace, retry=job.run.retry)
    with waiting_for("reading the manifest", at_once=False) as waiting:
        scanned = scan(manifest, files, waiting)
    _check_scanned(job, manifest, scanned)
    if recorded is not None:
        _check_names(output, manifest, scanned)
        if not (job.run.replace or job.run.changed):
            check_identity(scanned.sample, manifest, output)
    return Plan(
        job,
        manifest,
        output,
        scanned.rows,
        scanned.refused,
        scanned.ids,
        scanned.videos,
        scanned.ids[:0],
        scanned.rows,
        resolved,
        settings,
        same_results=same_results(recorded, settings, job.run),
    )


def _check_root(job: Job, manifest: Manifest, files: Files) -> str:
    """Return the output's absolute URI, after objects were written there and deleted.

    Raises:
        ConfigError: It is inside the manifest's folder.
        StorageError: It is not writable.
    """
    root = check_utf8(files.absolute(job.output.uri))
    given = files.absolute(job.manifest)  # a folder, if it is the base, or if a table in it was found
    if (given == manifest.base or given != manifest.uri) and f"{_real(root)}/".startswith(f"{_real(given)}/"):
        raise ConfigError(
            f"the output {root} is inside the manifest's folder {given}, so the next run would take its masks for "
            "images; choose an output beside it"
        )
    files.check_writable(root)
    return root


def _check_scanned(job: Job, manifest: Manifest, scanned: Scan) -> None:
    """Refuse a manifest of which too little can be used.

    Raises:
        ConfigError: It says what, and how to fix it.
    """
    _check_roots(job, manifest, scanned)
    _check_rows(scanned)
    if len(scanned.videos):
        check_usable(job.recipe)
    _check_links(manifest, scanned)


def _real(uri: str) -> str:
    """Return a local path without symbolic links; another URI as it is."""
    return uri if "://" in uri else os.path.realpath(uri)


def check_model(plan: Plan, *, headers_only: bool = False) -> None:
    """Refuse unusable weights and engines without loading them. Imports PyTorch only for weights of an unknown layout.

    Args:
        plan: The plan.
        headers_only: As for ``models.check.check_files``.

    Raises:
        ConfigError: Recipe and engine do not fit together.
        WeightsError: A file is not of the layout that the recipe names.
    """
    plan.resolved.check(plan.job.compute.engine, headers_only=headers_only)


def same_results(recorded: dict[str, Any] | None, settings: dict[str, Any], options: RunOptions) -> str | None:
    """Return the recorded fingerprint if it differs, and a run with ``--retry prompt`` leaves all but failed items alone."""
    if recorded is None or options.replace or "prompt" not in options.retry or not eases_detector(recorded, settings):
        return None
    return str(recorded["fingerprint"])


def check_settings(
    output: Output, recipe: Recipe, settings: dict[str, Any], *, replace: bool, retry: Collection[str] = ()
) -> dict[str, Any] | None:
    """Check that an output can take a run with these settings, and return the settings that it records.

    With ``--retry prompt``, the detector's threshold may be lower than before.

    Raises:
        ConfigError: Its items have other settings, or its folders were not written by a run.
        StorageError: It cannot be read.
    """
    recorded = read_settings(output)
    if recorded is None:
        find_outputs(output.folder, output.files)  # refuses outputs of older versions
        if in_the_way := folders_in_the_way(output, recipe):
            raise ConfigError(
                f"{output.folder} has a folder {in_the_way[0]} that no run wrote; choose an empty output, or move it"
            )
        return None
    different = list(differences(recorded, settings))
    if different and not replace:
        eased = eases_detector(recorded, settings)
        if eased and "prompt" in retry:
            return recorded
        hint = ", or --retry prompt to process only those in which nothing was found" if eased else ""
        raise ConfigError(
            f"the items in {output.folder} have other settings: {'; '.join(different)}. Use another output, or add --replace "
            f"to process the items again{hint}"
        )
    return recorded


def _check_names(output: Output, manifest: Manifest, scanned: Scan) -> None:
    """Refuse items whose files would have the name of another item that is in the output and not in the manifest.

    Raises:
        ConfigError: It names both items.
    """
    for rows in read_index(output, ["item_id", "output_name", "status"]):
        others = rows.filter(pc.not_equal(rows["status"], "failed"))
        others = others.filter(pa.array(~contains(scanned.ids, hash_ids(others["item_id"]))))
        taken = others.filter(pa.array(np.isin(name_keys(others["output_name"]), scanned.names)))
        for item_id, name in zip(taken["item_id"].to_pylist(), taken["output_name"].to_pylist(), strict=True):
            if (other := item_named(manifest, name, output.files)) is not None:
                raise ConfigError(shared_name((item_id, name), other))


def _check_rows(scanned: Scan) -> None:
    """Refuse a manifest without a usable row, before its failures are recorded.

    Raises:
        ConfigError: It names the most frequent reason.
    """
    if scanned.rows and scanned.refused == scanned.rows:
        count, first = max(scanned.reasons.values())
        raise ConfigError(
            f"none of the manifest's {scanned.rows} rows can be used. The most frequent reason ({count} rows): {first}"
        )


def _check_roots(job: Job, manifest: Manifest, scanned: Scan) -> None:
    """Refuse a run that would exceed its error budget, or have no result, because images are outside the allowed roots.

    Raises:
        ConfigError: It names the root that most of those images are below.
    """
    outside = scanned.outside_roots
    are_all = 0 < outside.rows == scanned.rows
    if not are_all and not exceeds(outside.rows, scanned.rows, job.budget):
        return
    root, count = outside.largest_group()
    share = "all" if count == outside.rows else f"{count} of them"
    advice = f"; {suggest_allow_root(root)} if they may be read"
    if "://" not in root and not os.path.exists(root):  # noqa: PTH110
        advice = f", which does not exist on this machine; correct the paths, which may begin at {manifest.base}"
    raise ConfigError(
        f"{outside.rows} of {scanned.rows} rows of the manifest name images outside the allowed roots ({manifest.allowlist}), "
        f"{share} below {display_uri(root, quoted=False)}{advice}"
    )


def _check_links(manifest: Manifest, scanned: Scan) -> None:
    """Refuse a manifest whose images all are links to files outside the roots, as in the cache of the Hugging Face hub.

    Raises:
        ConfigError: It names the root to allow. Images of the scan's sample are looked at until one can be read.
    """
    refused: ItemRefused | None = None
    for uri in (request.image_uri for request in scanned.sample.values() if request.image_uri):
        try:
            manifest.allowlist.real_path(uri)
        except ItemRefused as error:
            refused = error
        else:
            return
    if refused is not None:
        raise ConfigError(f"no image of the manifest can be read: {refused}")


def without_done(plan: Plan, retry: Collection[str] = (), changed: IdSet | None = None) -> Plan:
    """Return the plan without the items that are in the index, failed ones included.

    Args:
        plan: The plan.
        retry: Error codes whose items are done again.
        changed: Sorted ids of further items to do again.

    Raises:
        StorageError: The index cannot be read.
    """
    done, stale = done_ids(plan.output, plan.settings["fingerprint"], retry, or_recipe=plan.same_results)
    if changed is not None:
        done = done[~contains(changed, done)]
    replaces = bool(contains(plan.ids, stale).any()) or (changed is not None and len(changed) > 0)
    return dataclasses.replace(plan, done=done, todo=plan.rows - int(contains(done, plan.ids).sum()), replaces=replaces)


def only_missing(plan: Plan, run_id: str) -> Plan:
    """Return the plan for the items that a pass was to do and that have no row of this run.

    Raises:
        StorageError: The index cannot be read.
    """
    planned = plan.ids[~contains(plan.done, plan.ids)]
    missing = planned[~contains(ids_of_run(plan.output, run_id), planned)]
    return dataclasses.replace(plan, done=plan.ids[~contains(missing, plan.ids)], todo=len(missing))


def missing_items(count: int, plan: Plan) -> str:
    """Return the message about items without a row."""
    return (
        f"{count} of {plan.rows} items have no row in {plan.output.layout.index}; run the same command again, "
        "and check that all workers reach the same storage and that the manifest does not change during the run"
    )
