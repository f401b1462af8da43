"""Run a whole job from Python: ``from pipeline import run``, then ``run("photos", "out/photos")``.

This package can be called, and is its function ``run``. Its modules are one run: preflight checks, the driver, and the stages,
in a worker process (``local``) or on Ray (``on_cluster``). ``driver.run_job`` is the entry, ``graph`` the order of work.

May import: ``segmenter``, ``output``, ``manifest``, ``models`` and what they may import.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.output.run_record import RunRecord
    from pipeline.run.callback import Callback

__all__ = ["run"]

PathLike = str | os.PathLike[str]


def run(
    manifest: PathLike | None = None,
    output: PathLike | None = None,
    *,
    label: str | Iterable[str] = (),
    preset: PathLike | None = None,
    rendition: PathLike | Iterable[PathLike] = (),
    settings: Mapping[str, Any] | None = None,
    job: PathLike | None = None,
    allow_root: PathLike | Iterable[PathLike] = (),
    retry: str | Iterable[str] = (),
    changed: bool = False,
    replace: bool = False,
    accept_licence: bool = False,
    progress: Callback | None = None,
) -> RunRecord:
    """Cut out every image of a manifest, as ``matteline run`` does.

    Writes masks, cutouts and an index with quality scores to the output. Call it again with the same arguments to continue a
    stopped run. Items that are in the index are skipped, failed ones too (see ``retry``).

    >>> from pipeline import run
    >>> record = run("photos", "out/photos", rendition="amazon-main")
    >>> record
    <RunRecord 20270101T093000.123Z-3fa9c1: complete, 9 ok, 1 review, 0 failed, 0 done before, of 10 items>

    Args:
        manifest: Images: a folder, a table (Parquet, CSV or JSON Lines) with a column image_uri, Parquet with pictures in it,
            or WebDataset shards. Path or URI, such as ``s3://shop/photos`` or ``hf://datasets/OWNER/NAME``.
        output: Folder for the results, or a URI such as ``s3://bucket/prefix``.
        label: Name of the object to cut out, such as ``potted plant``, or several of which any will do. A detector looks for it
            in images that have no box and no label of their own.
        preset: Model: a name from ``matteline models``, or path of a YAML file.
        rendition: Renditions to write as well: a name from ``matteline renditions``, path of a YAML file, or several of these.
        settings: Settings by their names in configs/README.md, such as ``{"recipe.stretch": True, "compute.actors": 2}``.
        job: Path of a YAML file with manifest, output, preset and settings. The other arguments take precedence.
        allow_root: Allow images below this folder, prefix or web address (or several), besides the manifest's folder.
        retry: Process failed items again that have these error codes, such as ``"fetch,write"`` or ``["fetch"]``, or ``"all"``.
        changed: Process items again whose image, URI, box or label has changed.
        replace: Process items again that were made with another recipe. Without it, another recipe is refused.
        accept_licence: Allow weights whose licence restricts commercial use.
        progress: A function that is called with a ``RunProgress``: at the start, when items are finished but at most four times
            per second, and at the end. It is called in this thread, which waits for it. If it raises a ``PipelineError`` such
            as ``Stopped``, the run ends with that error. Any other exception is logged, and the run goes on without calls.

    Returns:
        The record of the run, which is also ``_matteline/runs/<run_id>.json`` in the output.

    Raises:
        Refused: (``ConfigError``, ``WeightsError``, ``StorageError``) before work started.
        ErrorBudgetExceeded: Too many items failed. Finished items stay.
        Stopped: The deadline passed, or no item was finished for a long time. Call it again to continue.
        LeaseHeld: Another run uses this output.
        ItemsMissing: The run ended, and items have no row in the index.

    These are subclasses of ``pipeline.errors.PipelineError``. If the run had begun, the error's ``record`` is its run record.
    Ctrl-C (in a notebook: the stop button) raises KeyboardInterrupt; finished items stay, and the next call does the others.
    """
    from pipeline.config.job import load_job
    from pipeline.run.driver import run_job
    from pipeline.run.signals import keep_handlers

    if not isinstance(settings, Mapping | None):
        raise TypeError(f'settings is a mapping such as {{"compute.actors": 2}}, not a {type(settings).__name__}')
    flags = {"changed": changed, "replace": replace, "accept_licence": accept_licence}
    options: dict[str, Any] = {f"run.{name}": True for name, is_set in flags.items() if is_set}
    if retry:
        options["run.retry"] = retry if isinstance(retry, str) else list(retry)
    parsed = load_job(
        manifest=_text(manifest, "manifest"),
        output=_text(output, "output"),
        preset=_text(preset, "preset"),
        overrides={**(settings or {}), **_label(label), **options},
        job_file=_text(job, "job"),
        renditions=_texts(rendition, "rendition"),
        allow_roots=_texts(allow_root, "allow_root"),
    )
    with keep_handlers():
        _, record = run_job(parsed, callback=progress)
    return record


def _text(given: PathLike | None, name: str) -> str | None:
    if given is not None and not isinstance(given, str | os.PathLike):
        raise TypeError(f"{name} is a path or URI, not a {type(given).__name__}")
    return None if given is None else os.fspath(given)


def _texts(given: PathLike | Iterable[PathLike], name: str) -> list[str]:
    several = [given] if isinstance(given, str | os.PathLike) else given or ()
    return [text for one in several if (text := _text(one, name)) is not None]


def _label(given: str | Iterable[str]) -> dict[str, Any]:
    from pipeline.config.detector import label_of

    label = label_of(given if isinstance(given, str) else list(given), "label")
    return {} if label is None else {"recipe.detector.label": label}


class _Callable(ModuleType):
    """A package that is its function ``run``: whoever imports one of its modules makes it ``pipeline.run``."""

    def __call__(self, *arguments: Any, **named: Any) -> RunRecord:
        """Run a job; see ``help(pipeline.run)``."""
        return run(*arguments, **named)

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, (__name__,)


__signature__ = inspect.signature(run)
sys.modules[__name__].__class__ = _Callable
