"""Bring an output into a state that a run can continue: repair what an interrupted run left, and apply changed settings."""

from __future__ import annotations

from pipeline.config.recipe import DERIVED
from pipeline.log import log
from pipeline.manifest.id_set import IdSet, duplicate_ids
from pipeline.output.compaction import compact
from pipeline.output.derived import adjust_index, rename_recipe
from pipeline.output.kept_masks import forget_done
from pipeline.output.output import Output
from pipeline.output.overwrites import check_overwrites
from pipeline.output.reconcile import reconcile
from pipeline.output.settings import read_settings, write_settings
from pipeline.run.preflight import Plan, check_settings, same_results


def is_settled(plan: Plan) -> bool:
    """Return whether the output needs neither a repair nor a change, so that a run without items to do can end at once.

    Items that are done and also have a row of another recipe (``plan.replaces``) are two rows of one item, too.

    Raises:
        StorageError: The output cannot be read.
    """
    recorded = read_settings(plan.output)
    if recorded is None or not recorded["complete"] or any(recorded[name] != plan.settings[name] for name in DERIVED):
        return False
    if recorded["fingerprint"] != plan.settings["fingerprint"] or len(duplicate_ids(plan.done)) or plan.replaces:
        return False
    return next(plan.output.files.list(plan.output.layout.overwrites, suffixes=(".json",)), None) is None


def needs_derivation(plan: Plan) -> bool:
    """Return whether finished items may lack an output or rendition.

    Raises:
        StorageError: The output cannot be read.
    """
    settings = read_settings(plan.output)
    return settings is not None and not settings["complete"]


def prepare_output(plan: Plan) -> None:
    """Repair the output, apply settings that need no model to its index, and record the settings. Needs the lease.

    Raises:
        ConfigError: Another run has recorded other settings meanwhile.
        StorageError: The output cannot be read or written.
    """
    output, recipe, settings = plan.output, plan.job.recipe, dict(plan.settings)
    options = plan.job.run
    recorded = check_settings(output, recipe, settings, replace=options.replace, retry=options.retry)
    complete = True
    if recorded is not None:
        tidy_index(output, plan.done)
        if (before := same_results(recorded, settings, options)) is not None:
            rename_recipe(output, before, settings["fingerprint"])  # before the record: an interruption is repeated
        settings["folders"] = sorted({*recorded["folders"], *settings["folders"]})
        same = all(recorded[name] == settings[name] for name in DERIVED)
        complete = same and recorded["complete"]
        gone = {*recorded["renditions"], *recorded["outputs"]} - {*settings["renditions"], *settings["outputs"]}
        if gone:
            log.warning(
                f"{', '.join(sorted(gone))}: no longer asked for, so removed from the index; matteline gc --delete removes the "
                "files. To keep them, run again with all renditions and outputs"
            )
        if not same:
            # First the index, then the record: an interruption is repeated by the next run.
            adjust_index(output, recipe)
    settings["complete"] = complete
    if settings != recorded:
        write_settings(output, settings)


def tidy_index(output: Output, done: IdSet) -> None:
    """Leave one row per item, none that contradicts its objects, and as few parts as readers like.

    Args:
        output: The output.
        done: Sorted ids of the items that need no work, whose kept masks are deleted.

    Raises:
        StorageError: The output cannot be read or written.
    """
    if superseded := reconcile(output):
        log.info("moved rows of repeated tasks out of the index", extra={"facts": {"rows": superseded}})
    if repaired := check_overwrites(output):
        log.info(
            "items were interrupted while they were replaced, and are processed again", extra={"facts": {"items": repaired}}
        )
    compact(output)
    forget_done(output, done)
