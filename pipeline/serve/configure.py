"""Turn the options of a service into the service: for ``matteline serve`` and for Ray Serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.job import Compute, Limits, Storage, load_job
from pipeline.config.portable import SERVED
from pipeline.config.presets import DEFAULT_PRESET, load_preset
from pipeline.config.rendition import Rendition, check_unique_names, load_rendition, rendition_names
from pipeline.config.sections import build
from pipeline.errors import ConfigError
from pipeline.models.backgrounds import Backgrounds, pin_backgrounds
from pipeline.models.resolve import check_licence
from pipeline.serve.jobs.jobs import Jobs
from pipeline.serve.jobs.offer import Offer
from pipeline.serve.service import Service
from pipeline.serve.settings import Serving
from pipeline.storage.files import Files


@dataclass(frozen=True)
class Options:
    """Choices of the operator, besides ``Serving``.

    Attributes:
        presets: Names or files of presets, the default first.
        renditions: Files of renditions besides the bundled ones, or the renditions themselves, which jobs do not offer.
        changes: Settings by section and key.
        accept_licence: Allow weights whose licence restricts commercial use.
        read: Roots of addresses that requests may name to be read.
        write: Roots of outputs of jobs; none: the service takes no jobs.
        max_jobs: Jobs at a time.
    """

    presets: tuple[str, ...] = (DEFAULT_PRESET,)
    renditions: tuple[str | Rendition, ...] = ()
    changes: Mapping[str, Mapping[str, Any]] | None = None
    accept_licence: bool = False
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    max_jobs: int = 1


def configure(options: Options, settings: Serving) -> Callable[[], Service]:
    """Check the options, as far as that needs no model, and return what makes the service inside an event loop.

    Raises:
        ConfigError: One of them cannot be used.
        StorageError: A root for outputs cannot be written.
    """
    changes = options.changes or {}
    if not options.write and (unused := sorted(set(changes) - set(SERVED))):
        raise ConfigError(
            f"--set {unused[0]}.{min(changes[unused[0]])} is for jobs, and this service takes none; leave it out, or take jobs "
            "with --output-root"
        )
    storage = build(Storage, changes.get("storage", {}), "--set")
    limits = build(Limits, changes.get("limits", {}), "--set")
    compute = build(Compute, changes.get("compute", {}), "--set")
    files = Files(storage.model_copy(update={"allow_roots": (*storage.allow_roots, *options.read)}))
    loaded = [load_preset(name, changes.get("recipe")) for name in options.presets]
    presets = {one.recipe.name: one for one in loaded}
    if len(presets) < len(loaded):
        raise ConfigError("two presets have the same name; give each --preset once")
    for one in loaded:
        check_licence(one, options.accept_licence)
    renditions, backgrounds = _renditions(options.renditions, files, limits)
    offer = _offer(options, files, tuple(presets))
    if offer is not None:
        for root in offer.write:
            files.check_writable(files.absolute(root))
        Jobs(offer, files)  # refuses roots that cannot be used

    def make() -> Service:
        jobs = None if offer is None else Jobs(offer, files)
        return Service(presets, renditions, backgrounds, settings, limits, compute, files, jobs)

    return make


def _offer(options: Options, files: Files, presets: tuple[str, ...]) -> Offer | None:
    if not options.write:
        return None
    given = {f"{section}.{key}": value for section, pairs in (options.changes or {}).items() for key, value in pairs.items()}
    offer = Offer(
        read=files.storage.allow_roots,
        write=options.write,
        most=options.max_jobs,
        presets=dict(zip(presets, options.presets, strict=True)),
        renditions={load_rendition(one).name: one for one in (*rendition_names(), *options.renditions) if isinstance(one, str)},
        settings=given | ({"run.accept_licence": True} if options.accept_licence else {}),
    )
    for preset in options.presets:  # refuses settings now that would otherwise fail every job
        load_job(manifest="manifest.csv", output=options.write[0], preset=preset, overrides=offer.settings)
    return offer


def _renditions(own: Sequence[str | Rendition], files: Files, limits: Limits) -> tuple[dict[str, Rendition], Backgrounds]:
    """Return the bundled renditions and the user's own by the name of their file, and their background pictures.

    Raises:
        ConfigError: One cannot be used, or a name is used twice.
    """
    chosen = [load_rendition(one) if isinstance(one, str) else one for one in (*rendition_names(), *own)]
    try:
        check_unique_names(chosen)
    except ValueError as error:
        raise ConfigError(f"--rendition: {error}") from None
    pinned, backgrounds = pin_backgrounds(chosen, files, limits)
    return {
        file.name: one.model_copy(update={"size_px": () if file.size_px is None else (file.size_px,)})
        for one in pinned
        for file in one.files
    }, backgrounds
