"""``matteline export``: write an MVANet as an ONNX file, with the preset that runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs import options
from jobs.console import out

PHOTOS = ("astronaut.jpg", "cat.jpg", "bicycle.jpg")
"""Bundled photos that the file is checked on."""


def export(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The ONNX file. The preset that runs it is written beside it, as .yaml.")
    ],
    preset: options.Preset = None,
    set_: options.Set = None,
    endpoint_url: options.Endpoint = None,
    accept_licence: options.AcceptLicence = False,
    verbose: options.Verbose = False,
) -> None:
    """Write a preset's MVANet as an ONNX file, and compare its alpha with PyTorch's on three photos.

    Another frame size: --set recipe.frame_px=512. Your own weights: --set recipe.weights=my.safetensors.
    """
    import numpy as np
    import yaml

    from pipeline.config.job import Limits, Storage, parse_overrides
    from pipeline.config.presets import load_preset
    from pipeline.config.recipe import REVIEW_BELOW
    from pipeline.config.sections import build
    from pipeline.errors import ConfigError
    from pipeline.imaging.decode import decode
    from pipeline.imaging.frame import make_frame, place
    from pipeline.models.export import check_can_export, export_onnx, onnx_recipe
    from pipeline.models.resolve import check_licence, resolve
    from pipeline.paths import EXAMPLES
    from pipeline.storage.files import Files
    from pipeline.storage.overwriting import refuse_foreign
    from pipeline.storage.weights_cache import file_sha256

    del verbose  # read by main, for tracebacks
    changes = parse_overrides(options.settings(set_, endpoint_url))
    chosen = load_preset(preset or "ben2-base", changes.get("recipe"))
    if chosen.recipe.model != "mvanet":
        raise ConfigError(f"the preset {chosen.recipe.name} is an ONNX file already; name the preset of an MVANet")
    if output.suffix != ".onnx":
        raise ConfigError(f"--output {str(output)!r} must end in .onnx")
    files, target = Files(build(Storage, changes.get("storage", {}), "--set")), output.with_suffix(".yaml")
    preset_of = f"weights: {output.name}\n".encode()
    refuse_foreign("--output", files.absolute(str(target)), files, (".yaml",), lambda data: preset_of in data)
    if not target.exists():
        refuse_foreign("--output", files.absolute(str(output)), files, (".onnx",), lambda data: False)
    check_can_export()
    check_licence(chosen, accept_licence)
    uncalibrated = chosen.recipe.model_copy(update={"calibration": "", "calibration_sha256": None})
    resolved = resolve(uncalibrated, files, gpu=False)
    recipe, weights = resolved.recipe, resolved.weights
    assert weights is not None  # only a fake model has none
    photos = [decode((EXAMPLES / name).read_bytes(), Limits()) for name in PHOTOS]
    frames = np.stack([make_frame(photo, place(photo.shape[:2], None, recipe), recipe) for photo in photos])
    output.parent.mkdir(parents=True, exist_ok=True)
    difference = export_onnx(weights, recipe, frames, output)
    onnx = onnx_recipe(recipe, output, file_sha256(output)).model_dump(mode="json", exclude_defaults=True)
    if not recipe.refiner_weights:
        onnx.pop("refiner_weights_sha256", None)  # the bundled weights are not pinned in a preset
    if recipe.review_below == REVIEW_BELOW:
        onnx.pop("review_below")  # a later calibration may have another threshold
    facts = chosen.model_dump(mode="json", exclude={"recipe"}) | {"size_mb": round(output.stat().st_size / 1e6, 1)}
    content = facts | {"recipe": onnx | {"name": output.stem.lower(), "weights": output.name}}
    target.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    out.print(
        f"{output}: {facts['size_mb']} MB, alpha within {difference:.1e} of PyTorch's on {len(photos)} photos", markup=False
    )
    out.print(f"run it with --preset {target}", markup=False)
