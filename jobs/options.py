"""Define the options that several commands share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.config.columns import Columns
    from pipeline.config.job import Compute, Job
    from pipeline.storage.files import Files
    from pipeline.types import Box

Preset = Annotated[str | None, typer.Option("--preset", "-p", help="Model: a name from `matteline models`, or a .yaml file.")]
Renditions = Annotated[
    list[str] | None,
    typer.Option(
        "--rendition",
        "-r",
        metavar="NAME",
        help="Also write this rendition: a name from `matteline renditions`, or a .yaml file. Repeatable.",
    ),
]
OwnRenditions = Annotated[
    list[str] | None,
    typer.Option(
        "--rendition",
        "-r",
        metavar="FILE",
        help="Offer this rendition of yours, a .yaml file, besides the bundled ones. Repeatable.",
    ),
]
AllowOrigin = Annotated[
    list[str] | None,
    typer.Option("--allow-origin", metavar="ORIGIN", help="Serve web pages of this origin (CORS). Repeatable."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="SECTION.KEY=VALUE",
        help="Change a setting, e.g. recipe.stretch=true or limits.max_bytes=200000000. Repeatable.",
    ),
]
StorageSet = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="storage.KEY=VALUE",
        help="Change a storage setting, e.g. storage.region=eu-west-1. Repeatable.",
    ),
]
PassSet = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="SECTION.KEY=VALUE",
        help="Change a storage or compute setting, e.g. storage.region=eu-west-1 or compute.ray_address=auto. Repeatable.",
    ),
]
JobFile = Annotated[
    str | None, typer.Option("--job", help="YAML file with manifest, output, preset and settings. Options take precedence.")
]
Manifest = Annotated[
    str | None,
    typer.Option(
        "--manifest",
        "-m",
        help="Images: a folder, a table (Parquet, CSV, JSON Lines) or WebDataset shards. Path or URI.",
    ),
]
ImageColumn = Annotated[
    str | None,
    typer.Option("--image-column", metavar="NAME", help="The manifest's column of paths or URIs. Default: image_uri."),
]
IdColumn = Annotated[
    str | None, typer.Option("--id-column", metavar="NAME", help="The manifest's column of unique ids. Default: item_id.")
]
BoxColumn = Annotated[
    str | None,
    typer.Option(
        "--box-column",
        metavar="NAME",
        help="The manifest's column of boxes, or four columns: xmin,ymin,xmax,ymax. Default: box, or x0, y0, x1, y1.",
    ),
]
BoxesColumn = Annotated[
    str | None,
    typer.Option("--boxes-column", metavar="NAME", help="The manifest's column with lists of boxes. Default: boxes."),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(
        "--label-column",
        metavar="NAME",
        help='The manifest\'s column of names of objects, for a detector; "" for none. Default: label and labels.',
    ),
]
Output = Annotated[
    str | None, typer.Option("--output", "-o", help="Folder for the results, or a URI such as s3://bucket/prefix.")
]
Label = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="NAME",
        help='Cut out the object of this name, e.g. "potted plant", found by a detector (recipe.detector). Repeatable: any of '
        "the names. Those of `matteline models --names` need no download. auto: the salient object, as without this option.",
    ),
]
Start = Annotated[
    float | None, typer.Option("--start", metavar="SECONDS", help="Cut out a video from here on, in seconds from its start.")
]
End = Annotated[float | None, typer.Option("--end", metavar="SECONDS", help="Cut out a video up to here.")]
AllowRoot = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-root",
        metavar="URI",
        help="Allow images below this folder, prefix or web address, in addition to the manifest's folder. Repeatable.",
    ),
]
Retry = Annotated[
    str | None,
    typer.Option(
        "--retry",
        metavar="CODES",
        help="Retry failed items by error code, e.g. fetch,write, or all. `matteline show` lists the codes.",
    ),
]
Changed = Annotated[bool, typer.Option("--changed", help="Reprocess items whose image, URI, box or label has changed.")]
Replace = Annotated[
    bool,
    typer.Option(
        "--replace",
        help="Reprocess items made with another recipe: the model, and the settings that change masks, cutouts or scores. "
        "Without this option, a run with another recipe is refused.",
    ),
]
Deadline = Annotated[
    str | None,
    typer.Option(
        "--deadline",
        metavar="TIME",
        help="Start no more items once the run has lasted this long, e.g. 6h. The same command continues the run.",
    ),
]
DriftFrom = Annotated[
    str | None,
    typer.Option(
        "--drift-from",
        metavar="OUTPUT",
        help="Warn if the quality differs from this baseline: an output, or a file from `matteline review accept`. "
        "Default: the baseline that is stored in --output.",
    ),
]
AcceptLicence = Annotated[bool, typer.Option("--accept-licence", help="Allow weights whose licence restricts commercial use.")]
Endpoint = Annotated[
    str | None, typer.Option("--endpoint-url", help="S3-compatible server other than AWS (or set AWS_ENDPOINT_URL).")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log more, and show tracebacks.")]


def job_of(
    manifest: str | None,
    output: str | None,
    preset: str | None,
    job_file: str | None,
    pairs: list[str],
    allow_roots: list[str] | None = None,
    renditions: list[str] | None = None,
) -> Job:
    """Build the job for ``run`` and ``plan``. ``allow_roots`` are added to those of the settings.

    Raises:
        ConfigError: A setting is missing, unknown or out of range, or the manifest is one image or video.
    """
    from pipeline.config.job import load_job

    if manifest and not (output or job_file or any(pair.startswith("output.uri=") for pair in pairs)):
        from pipeline.manifest.manifest import refuse_single  # slow, and a complete command does it later

        refuse_single(manifest)
    return load_job(
        manifest=manifest,
        output=output,
        preset=preset,
        overrides=pairs,
        job_file=job_file,
        renditions=renditions or (),
        allow_roots=allow_roots or (),
    )


def run_settings(retry: str | None = None, **flags: bool) -> list[str]:
    """Return the pairs of the options that a job file may hold in its section ``run``."""
    return [*([f"run.retry={retry}"] if retry else []), *(f"run.{name}=true" for name, is_set in flags.items() if is_set)]


UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def limit_settings(deadline: str | None, drift_from: str | None) -> list[str]:
    """Return the ``section.key=value`` pairs of ``--deadline`` and ``--drift-from``.

    Raises:
        ConfigError: The deadline is not a time.
    """
    pairs = [f"budget.deadline_s={seconds(deadline, '--deadline')}"] if deadline else []
    return pairs + ([f"drift.accepted={json.dumps(drift_from)}"] if drift_from else [])


def seconds(text: str, option: str = "--deadline") -> float:
    """Parse ``90s``, ``45m``, ``6h`` or ``1.5d`` to seconds. ``option`` is named in the error.

    Raises:
        ConfigError: The text has another form.
    """
    from pipeline.errors import ConfigError

    number, unit = text[:-1], text[-1:]
    if unit not in UNITS or not number.replace(".", "", 1).isdecimal() or not float(number):
        raise ConfigError(f"{option} {text}: give a time above 0 with a unit, such as 30s, 45m, 6h or 1.5d")
    return float(number) * UNITS[unit]


def label_settings(labels: list[str] | None) -> list[str]:
    """Return the settings of ``--label`` as ``section.key=value`` pairs. ``auto`` takes the place of a job file's names.

    Raises:
        ConfigError: There are too many, or one is too long.
    """
    from pipeline.config.detector import label_of

    label = label_of(labels, "--label")
    return [] if label is None else [f"recipe.detector.label={json.dumps(label)}"]


def named(labels: list[str] | None) -> bool:
    """Return whether ``--label`` has a name, not only ``auto``."""
    from pipeline.config.detector import AUTO

    return any(one.strip().lower() not in ("", AUTO) for one in labels or ())


def box_of(box: str | None, label: list[str] | None) -> Box | None:
    """Parse ``--box``.

    Raises:
        ConfigError: There is a label, too, or the text is no box.
    """
    from pipeline.errors import ConfigError, ItemRefused
    from pipeline.manifest.boxes import parse_box

    if box and named(label):
        raise ConfigError("--box already says where the object is; remove --box or --label")
    try:
        return None if box is None else parse_box(box)
    except ItemRefused as error:
        raise ConfigError(f"--box: {error}") from None


def point_of(point: str | None, box: str | None, label: list[str] | None) -> tuple[float, float] | None:
    """Parse ``--point``.

    Raises:
        ConfigError: There is a box or a label, too, or the text is no point.
    """
    from pipeline.errors import ConfigError, ItemRefused
    from pipeline.manifest.points import parse_point

    if point is None:
        return None
    if box or named(label):
        raise ConfigError("--point cannot be combined with --box or --label; give one of them")
    if not point.strip():
        raise ConfigError("--point is empty; give x,y in pixels")
    try:
        return parse_point(point)
    except ItemRefused as error:
        raise ConfigError(f"--point: {error}") from None


def settings(chosen: list[str] | None, endpoint_url: str | None) -> list[str]:
    """Return all ``section.key=value`` pairs of a command line."""
    return [*(chosen or []), *([f"storage.endpoint_url={endpoint_url}"] if endpoint_url else [])]


def column_settings(
    image: str | None, id_: str | None, box: str | None, boxes: str | None, label: str | None = None
) -> list[str]:
    """Return the ``section.key=value`` pairs of the options that name columns of the manifest."""
    given = {"image": image, "id": id_, "box": box, "boxes": boxes, "label": label}
    return [f"columns.{name}={json.dumps(column)}" for name, column in given.items() if column is not None]


def columns_of(image: str | None, id_: str | None, box: str | None, boxes: str | None) -> Columns:
    """Return the columns that the options name, for commands without a job.

    Raises:
        ConfigError: Two of them exclude each other.
    """
    from pipeline.config.columns import Columns
    from pipeline.config.sections import build

    return build(Columns, {"image": image, "id": id_, "box": box, "boxes": boxes}, "the command line")


def files_of(chosen: list[str] | None, endpoint_url: str | None, allow_roots: list[str] | None = None) -> Files:
    """Return access to storage, for commands that need no other settings. ``allow_roots`` are added to those of the settings.

    Raises:
        ConfigError: A setting is of another section, unknown, or out of range.
    """
    return _files(_given(chosen, endpoint_url, "storage"), allow_roots)


def files_and_compute_of(
    chosen: list[str] | None, endpoint_url: str | None, allow_roots: list[str] | None = None
) -> tuple[Files, Compute]:
    """Return access to storage (as ``files_of``) and the compute settings, for commands that use Ray for large outputs.

    Raises:
        ConfigError: A setting is of another section, unknown, or out of range.
    """
    from pipeline.config.job import Compute
    from pipeline.config.sections import build

    given = _given(chosen, endpoint_url, "storage", "compute")
    return _files(given, allow_roots), build(Compute, given.get("compute", {}), "--set")


def _files(given: dict[str, dict[str, Any]], allow_roots: list[str] | None) -> Files:
    from pipeline.config.job import Storage
    from pipeline.config.sections import build
    from pipeline.storage.files import Files

    storage = build(Storage, given.get("storage", {}), "--set")
    return Files(storage.model_copy(update={"allow_roots": (*storage.allow_roots, *(allow_roots or ()))}))


def _given(chosen: list[str] | None, endpoint_url: str | None, *sections: str) -> dict[str, dict[str, Any]]:
    """Return the settings of a command that takes those of some sections only.

    Raises:
        ConfigError: A setting is of another section.
    """
    from pipeline.config.job import parse_overrides
    from pipeline.errors import ConfigError

    given = parse_overrides(settings(chosen, endpoint_url))
    if others := set(given) - set(sections):
        raise ConfigError(f"this command takes {' and '.join(sections)} settings only, not {min(others)}")
    return given
