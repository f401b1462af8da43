"""``matteline cut``: cut out one picture, without a manifest and without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs import options
from jobs.console import out


def cut(
    picture: Annotated[str, typer.Argument(help="Path or URI of the picture.")],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Path of the cutout, a PNG. Default: <name>-cutout.png in the current folder."),
    ] = None,
    box: Annotated[str | None, typer.Option("--box", help="Box around the object: x0,y0,x1,y1 in pixels.")] = None,
    mask: Annotated[str | None, typer.Option("--mask", help="Also write the mask to this path, an 8-bit PNG.")] = None,
    preset: options.Preset = None,
    rendition: options.Renditions = None,
    set_: options.Set = None,
    accept_licence: options.AcceptLicence = False,
    verbose: options.Verbose = False,
) -> None:
    """Cut out one picture.

    Renditions are written beside the cutout: cup.png, cup-amazon-main.jpg.
    """
    from pipeline.config.job import Compute, Limits, Storage, parse_overrides
    from pipeline.config.presets import DEFAULT_PRESET, load_preset
    from pipeline.config.sections import build
    from pipeline.errors import ConfigError
    from pipeline.imaging.decode import decode
    from pipeline.imaging.encode import encode_mask
    from pipeline.imaging.renditions.render import render
    from pipeline.log import set_up_logging, waiting_for
    from pipeline.models.resolve import check_licence
    from pipeline.paths import example_path
    from pipeline.storage.files import Files
    from pipeline.types import Box

    set_up_logging(verbose=verbose)
    changes = parse_overrides(set_ or [])
    storage = build(Storage, changes.get("storage", {}), "--set")
    limits = build(Limits, changes.get("limits", {}), "--set")
    compute = build(Compute, changes.get("compute", {}), "--set")
    files = Files(storage)
    target = output or f"{Path(picture).stem}-cutout.png"
    if not target.lower().endswith(".png"):
        raise ConfigError(f"--output {target!r} must end in .png: a cutout has transparency")
    where = None if box is None else Box.parse([part.strip() for part in box.split(",")])
    chosen = load_preset(preset or DEFAULT_PRESET, changes.get("recipe"), rendition or ())
    check_licence(chosen, accept_licence)
    source = files.absolute(example_path(picture))
    for option, path in (("--output", target), ("--mask", mask)):
        if path and files.absolute(path) == source:
            raise ConfigError(f"{option} {path} is the picture itself; choose another name")
    image = decode(files.read(source, max_bytes=limits.max_bytes), limits)
    with waiting_for(f"loading the model {chosen.recipe.name}"):
        from pipeline.segmenter import Segmenter

        segmenter = Segmenter.from_recipe(chosen.recipe, files, device=compute.device, threads=compute.threads_per_actor)
    with waiting_for("cutting out", at_once=False):
        result = segmenter(image, where)
    files.write(files.absolute(target), result.png())
    if mask:
        files.write(files.absolute(mask), encode_mask(result.alpha))
    why = f" ({', '.join(result.reasons)})" if result.reasons else ""
    out.print(f"{target}: {image.shape[1]} x {image.shape[0]}, quality {result.quality:.2f}{why}", markup=False)
    resolved = segmenter.resolved
    for rendered in render(resolved.recipe.renditions, result.cutout[..., :3], result.alpha, resolved.backgrounds):
        path = f"{target[:-4]}-{rendered.name}.{rendered.suffix}"
        if rendered.data is not None:
            files.write(files.absolute(path), rendered.data)
        size = [f"{rendered.size.width} x {rendered.size.height}"] if rendered.size else []
        out.print(f"{path}: {', '.join([*size, *([rendered.note] if rendered.note else [])])}", markup=False)
