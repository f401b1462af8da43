"""``matteline cut``: one picture, without a manifest and without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs import options
from jobs.console import out


def cut(
    picture: Annotated[str, typer.Argument(help="The picture: a path or a URI.")],
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="The cutout, a PNG; absent, <picture>-cutout.png.")
    ] = None,
    box: Annotated[str | None, typer.Option("--box", help="x0,y0,x1,y1 in pixels around the object.")] = None,
    mask: Annotated[str | None, typer.Option("--mask", help="Write the mask here too, an 8-bit PNG.")] = None,
    preset: options.Preset = None,
    rendition: options.Renditions = None,
    set_: options.Set = None,
    accept_licence: options.AcceptLicence = False,
    verbose: options.Verbose = False,
) -> None:
    """Cut out one picture. Renditions go beside the cutout: cup.png, cup-amazon-main.jpg."""
    from pipeline.config.job import Compute, Limits, Storage, parse_overrides
    from pipeline.config.presets import DEFAULT_PRESET, load_preset
    from pipeline.config.sections import build
    from pipeline.errors import ConfigError
    from pipeline.imaging.decode import decode
    from pipeline.imaging.encode import encode_mask
    from pipeline.imaging.renditions.render import render
    from pipeline.models.backgrounds import pin_backgrounds
    from pipeline.paths import example_path
    from pipeline.segmenter import Segmenter
    from pipeline.storage.files import Files
    from pipeline.types import Box

    del verbose  # read by main, for tracebacks
    changes = parse_overrides(set_ or [])
    storage = build(Storage, changes.get("storage", {}), "--set")
    limits = build(Limits, changes.get("limits", {}), "--set")
    compute = build(Compute, changes.get("compute", {}), "--set")
    files = Files(storage)
    target = output or f"{Path(picture).stem}-cutout.png"
    if not target.lower().endswith(".png"):
        raise ConfigError(f"--output {target!r} must end in .png: a cutout has transparency")
    where = None if box is None else Box.parse([part.strip() for part in box.split(",")])
    recipe = load_preset(preset or DEFAULT_PRESET, changes.get("recipe"), rendition or ()).recipe
    renditions, backgrounds = pin_backgrounds(recipe.renditions, files, limits)
    image = decode(files.read(files.absolute(example_path(picture)), max_bytes=limits.max_bytes), limits)
    segmenter = Segmenter(
        preset or DEFAULT_PRESET,
        device=compute.device,
        threads=compute.threads_per_actor,
        accept_licence=accept_licence,
        storage=storage,
        **changes.get("recipe", {}),
    )
    result = segmenter(image, where)
    files.write(files.absolute(target), result.png())
    if mask:
        files.write(files.absolute(mask), encode_mask(result.alpha))
    why = f" ({', '.join(result.reasons)})" if result.reasons else ""
    out.print(f"{target}: {image.shape[1]} x {image.shape[0]}, quality {result.quality:.2f}{why}", markup=False)
    for made in render(renditions, result.cutout[..., :3], result.alpha, backgrounds):
        beside = f"{target[:-4]}-{made.name}.{made.suffix}"
        if made.data is not None:
            files.write(files.absolute(beside), made.data)
        size = [f"{made.size.width} x {made.size.height}"] if made.size else []
        out.print(f"{beside}: {', '.join([*size, *([made.note] if made.note else [])])}", markup=False)
