"""``matteline cut``: cut out single pictures, without a manifest and without Ray. ``cut_video`` does it for videos."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from jobs import options
from jobs.console import describe_found, describe_looks, err, out, show_error

if TYPE_CHECKING:
    from pipeline.config.job import Compute, Limits
    from pipeline.config.recipe import Recipe
    from pipeline.imaging.renditions.plain import Format
    from pipeline.segmenter import Cutout, Segmenter
    from pipeline.storage.files import Files
    from pipeline.types import Pixels

PIPE = "-"
"""Names stdin as a picture, and stdout as an output."""

SUFFIXES: dict[Format, str] = {"png": ".png", "webp": ".webp", "jpeg": ".jpg", "tiff": ".tiff"}


class _Target(NamedTuple):
    """A picture and the file to write: what, and in which format."""

    picture: str
    path: str
    form: Format
    background: str | None
    mask_only: bool


def cut(
    pictures: Annotated[
        list[str], typer.Argument(help="Paths or URIs of pictures, or of videos. Use - to read a picture from stdin.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write (.png, .webp, .jpg, .tiff; for a video .webm, .mov, .mp4), folder for several, or - "
            "for stdout. Default: <name>-cutout.png (.webm) in the current folder; for a picture from stdin, stdout.",
        ),
    ] = None,
    box: Annotated[
        str | None, typer.Option("--box", help="Box around the object: x0,y0,x1,y1 in pixels; in a video, of the first frame.")
    ] = None,
    point: Annotated[
        str | None,
        typer.Option(
            "--point",
            help="A point on the object: x,y in pixels. Of several objects, only the one at the point is cut out.",
        ),
    ] = None,
    label: options.Label = None,
    start: options.Start = None,
    end: options.End = None,
    mask: Annotated[str | None, typer.Option("--mask", help="Also write the mask to this path, an 8-bit PNG.")] = None,
    mask_only: Annotated[
        bool, typer.Option("--mask-only", help="Write the mask, an 8-bit PNG or a grey video, instead of the cutout.")
    ] = False,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="png, webp, jpg or tiff; for a video webm, mov, mp4 or png (a folder of pictures). "
            "Default: by the suffix of --output, else png or webm.",
        ),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            "--background",
            metavar="COLOUR",
            help='Put this colour behind the object, e.g. "#f4f1ea", white or black; in a video, a colour or a picture (path '
            "or URI). Default: transparent; for JPEG and MP4 white.",
        ),
    ] = None,
    preset: options.Preset = None,
    rendition: options.Renditions = None,
    set_: options.Set = None,
    allow_root: Annotated[
        list[str] | None,
        typer.Option("--allow-root", metavar="URI", help="Allow web addresses below this one. Repeatable."),
    ] = None,
    accept_licence: options.AcceptLicence = False,
    verbose: options.Verbose = False,
) -> None:
    """Cut out pictures, or videos.

    Renditions are written beside the cutout: cup.png, cup-amazon-main.jpg. If one of several pictures fails, the others are
    still written, and the exit code is 1.
    """
    from jobs.cut_video import VideoOptions, are_videos, cut_videos, refuse_for_pictures, refuse_for_videos
    from pipeline.config.job import Compute, Limits, Storage, parse_overrides
    from pipeline.config.presets import DEFAULT_PRESET, load_preset
    from pipeline.config.sections import build
    from pipeline.errors import ConfigError, PipelineError
    from pipeline.log import set_up_logging, waiting_for
    from pipeline.models.resolve import check_licence
    from pipeline.paths import example_path
    from pipeline.storage.files import Files

    set_up_logging(verbose=verbose)
    changes = parse_overrides([*(set_ or []), *options.label_settings(label)])
    storage = build(Storage, changes.get("storage", {}), "--set")
    limits = build(Limits, changes.get("limits", {}), "--set")
    compute = build(Compute, changes.get("compute", {}), "--set")
    files = Files(storage.model_copy(update={"allow_roots": (*storage.allow_roots, *(allow_root or ()))}))
    where, touched = options.box_of(box, label), options.point_of(point, box, label)
    if are_videos(pictures, output, form):
        refuse_for_videos({"--point": point, "--mask": mask, "--rendition": rendition})
        chosen = load_preset(preset or DEFAULT_PRESET, changes.get("recipe"))
        check_licence(chosen, accept_licence)
        wanted = VideoOptions(output, form, background, mask_only)
        cut_videos(pictures, wanted, chosen.recipe, compute, limits, files, where, (start, end))
        return
    refuse_for_pictures({"--start": start, "--end": end})
    targets = _targets(pictures, output, form, background, mask_only)
    if len(targets) > 1 and (box or mask or point):
        raise ConfigError("--box, --point and --mask are for one picture; use a manifest for boxes of several (matteline run)")
    if rendition and targets[0].path == PIPE:
        raise ConfigError("renditions are files of their own, so --output - cannot be combined with --rendition")
    chosen = load_preset(preset or DEFAULT_PRESET, changes.get("recipe"), rendition or ())
    _check_targets(targets, mask, chosen.recipe, files)
    check_licence(chosen, accept_licence)
    segmenter: Segmenter | None = None
    failed = 0
    for target in targets:
        try:
            image = _read(example_path(target.picture), files, limits, at_once=segmenter is None)
            if segmenter is None:  # not before there is a picture for it
                segmenter = _load(chosen.recipe, compute, files, len(targets))
            with waiting_for(f"cutting out {shown(target.picture)}", at_once=False):
                result = segmenter(image, where, point=touched)
            with waiting_for(f"writing {shown(target.path)}", at_once=False):
                _write(target, mask, result, segmenter, files)
        except PipelineError as error:
            if len(targets) == 1 or isinstance(error, ConfigError):
                raise
            show_error(error)
            failed += 1
    if failed:
        err.print(f"{failed} of {len(targets)} pictures failed")
        raise typer.Exit(1)


def shown(place: str) -> str:
    """Return the name of a picture or an output as the log shows it: without secrets in its address."""
    from pipeline.storage.uris import redact

    return "the picture" if place == PIPE else redact(place)


def _load(recipe: Recipe, compute: Compute, files: Files, pictures: int) -> Segmenter:
    """Load the model for this number of pictures."""
    from pipeline.log import waiting_for

    with waiting_for(f"loading the model {recipe.name}"):
        from pipeline.segmenter import Segmenter

        engine = _engine(recipe, compute, pictures)
        return Segmenter.from_recipe(recipe, files, device=compute.device, threads=compute.threads_per_actor, engine=engine)


def _targets(
    pictures: list[str], output: str | None, form: str | None, background: str | None, mask_only: bool
) -> list[_Target]:
    """Choose the file of every picture.

    Raises:
        ConfigError: Options contradict each other, or a colour is none.
    """
    from pipeline.config.rendition import parse_colour
    from pipeline.errors import ConfigError
    from pipeline.storage.uris import stem

    for picture in pictures:
        if _is_folder(picture):
            raise ConfigError(f"{picture} is a folder; for all its pictures: matteline run -m {shlex.quote(picture)} -o OUT")
    if mask_only and background:
        raise ConfigError("a mask has no background; remove --background or --mask-only")
    suffix = PurePosixPath(output or "").suffix.lower()
    if output is not None and len(pictures) > 1 and (suffix in _formats() or output == PIPE):
        raise ConfigError(f"--output {output} is one file, but there are {len(pictures)} pictures; give a folder")
    in_folder = output is not None and (output.endswith("/") or len(pictures) > 1 or _is_folder(output))
    chosen = _format(form, "" if in_folder else suffix, output, mask_only)
    colour = None if background is None else parse_colour(background)
    if output not in (None, PIPE) and not (in_folder or suffix or form or Path(output).exists()):
        raise ConfigError(f"--output {output} has no suffix: add {SUFFIXES[chosen]} for a file, or a / for a folder")

    def path_of(picture: str) -> str:
        if output is None:
            return PIPE if picture == PIPE else f"{stem(picture)}-{'mask' if mask_only else 'cutout'}{SUFFIXES[chosen]}"
        named = "stdin" if picture == PIPE else stem(picture)
        return f"{output.rstrip('/')}/{named}{SUFFIXES[chosen]}" if in_folder else output

    return [_Target(picture, path_of(picture), chosen, colour, mask_only) for picture in pictures]


def _format(form: str | None, suffix: str, output: str | None, mask_only: bool) -> Format:
    """Choose the format by ``--format``, else by the output's suffix, else PNG.

    Raises:
        ConfigError: Unknown, or the two differ.
    """
    from pipeline.errors import ConfigError

    formats = _formats()
    asked = None if form is None else formats.get(f".{form.lower().lstrip('.')}")
    if form is not None and asked is None:
        raise ConfigError(f"--format {form!r} is unknown; choose png, webp, jpg or tiff")
    by_suffix = formats.get(suffix)
    if output not in (None, PIPE) and suffix and by_suffix is None:
        raise ConfigError(f"--output {output!r} must end in .png, .webp, .jpg or .tiff; the name of a folder ends in /")
    if asked and by_suffix and asked != by_suffix:
        raise ConfigError(f"--format {form} and --output {output} name different formats; leave one of them out")
    chosen = asked or by_suffix or "png"
    if mask_only and chosen != "png":
        raise ConfigError("masks are written as PNG only; give an output that ends in .png")
    return chosen


def _formats() -> dict[str, Format]:
    from pipeline.imaging.renditions.plain import FORMATS

    return FORMATS


def _is_folder(path: str) -> bool:
    return "://" not in path and path != PIPE and Path(path).is_dir()


def _check_targets(targets: list[_Target], mask: str | None, recipe: Recipe, files: Files) -> None:
    """Refuse to write one file twice, over a picture, or to a terminal.

    Raises:
        ConfigError: It names the option, and the pictures.
    """
    from pipeline.errors import ConfigError
    from pipeline.paths import example_path
    from pipeline.storage.overwriting import refuse_inputs

    if any(target.path == PIPE for target in targets) and sys.stdout.isatty():
        raise ConfigError("the picture would be written to the terminal; redirect stdout, or give --output FILE")
    names = [f"{file.name}.{one.suffix}" for one in recipe.renditions for file in one.files]
    written = [("--output", target.picture, target.path) for target in targets]
    written += [("--mask", "the mask", mask)] if mask else []
    for target in targets:
        written += [("--rendition", f"a rendition of {target.picture}", f"{_beside(target.path)}-{name}") for name in names]
    sources = [files.absolute(example_path(target.picture)) for target in targets if target.picture != PIPE]
    taken: dict[str, str] = {}
    for option, what, path in written:
        key = path if path == PIPE else files.absolute(path).casefold()
        if key in taken:
            advice = "give one at a time" if option == "--output" else "choose another name"
            raise ConfigError(f"{taken[key]} and {what} would both be written to {path}; {advice}")
        taken[key] = what
    for option in ("--output", "--mask", "--rendition"):
        refuse_inputs(option, [files.absolute(path) for one, _, path in written if one == option and path != PIPE], sources)


def _beside(path: str) -> str:
    """Return what the names of a cutout's renditions begin with: its path without a suffix."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{PurePosixPath(name).with_suffix('')}"


def _read(picture: str, files: Files, limits: Limits, *, at_once: bool) -> Pixels:
    """Read and decode one picture. Errors name it as the user did. ``at_once`` is that of ``waiting_for``.

    Raises:
        ItemError: It cannot be read or decoded.
    """
    from pipeline.errors import DecodeError, FetchError
    from pipeline.imaging.animation import is_animation
    from pipeline.imaging.decode import decode
    from pipeline.log import log, waiting_for

    with waiting_for(f"reading {shown(picture)}", at_once=at_once):
        if picture == PIPE:
            data = sys.stdin.buffer.read(limits.max_bytes + 1)
            if len(data) > limits.max_bytes:
                raise FetchError(f"stdin has more than {limits.max_bytes} bytes (limits.max_bytes)")
        else:
            data = files.read(picture if "~" not in picture else files.absolute(picture), max_bytes=limits.max_bytes)
    name = "stdin" if picture == PIPE else picture
    try:
        pixels = decode(data, limits)
    except DecodeError as error:
        raise DecodeError(f"{name}: {error}") from error
    if is_animation(data, limits):
        log.warning(
            f"{name}: only the first frame of this animation is cut out; for all frames give a video as output: -o x.webm"
        )
    return pixels


def _engine(recipe: Recipe, compute: Compute, pictures: int) -> str:
    """Return the engine that has so many pictures soonest, unless the user chose one."""
    from pipeline.models.devices import choose_device_type
    from pipeline.models.graphs.bundled import engine_for

    return engine_for(pictures, recipe, choose_device_type(compute.device)) if compute.engine == "auto" else compute.engine


def _encode(target: _Target, result: Cutout) -> bytes:
    from pipeline.errors import WriteError
    from pipeline.imaging.renditions.plain import encode_plain

    try:
        return encode_plain(result.cutout[..., :3], result.alpha, target.form, target.background)
    except WriteError as error:
        raise WriteError(f"{target.picture}: {error}") from None


def _write(target: _Target, mask: str | None, result: Cutout, segmenter: Segmenter, files: Files) -> None:
    """Write cutout or mask, the additional mask, and the renditions. Prints a line for each.

    Raises:
        WriteError: The picture is too large for the format.
    """
    from pipeline.imaging.png import encode_mask
    from pipeline.imaging.renditions.render import render
    from pipeline.quality.reasons import explain

    say = err if target.path == PIPE else out
    data = encode_mask(result.alpha) if target.mask_only else _encode(target, result)
    if target.path == PIPE:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        files.write(files.absolute(target.path), data)
    if mask:
        files.write(files.absolute(mask), encode_mask(result.alpha))
    why = f" ({'; '.join(map(explain, result.reasons))})" if result.reasons else ""
    threshold = segmenter.recipe.review_below
    review = ", to review" if threshold is not None and result.quality < threshold else ""
    height, width = result.alpha.shape
    name = "stdout" if target.path == PIPE else target.path
    say.print(f"{name}: {width} x {height}, quality {result.quality:.2f}{review}{why}", markup=False)
    if result.detection is not None:
        say.print(describe_found(*result.detection), markup=False)
    if result.agreement is not None:
        say.print(describe_looks(result.looks, result.agreement), markup=False)
    resolved = segmenter.resolved
    if not resolved.recipe.renditions:
        return
    colours = result.cutout[..., :3]
    for rendered in render(resolved.recipe.renditions, colours, result.alpha, resolved.backgrounds, result.picture):
        path = f"{_beside(target.path)}-{rendered.name}.{rendered.suffix}"
        if rendered.data is not None:
            files.write(files.absolute(path), rendered.data)
        size = [f"{rendered.size.width} x {rendered.size.height}"] if rendered.size else []
        say.print(f"{path}: {', '.join([*size, *([rendered.note] if rendered.note else [])])}", markup=False)
