"""Generate the tables of ``configs/README.md`` from the presets, the renditions and the pydantic models.

``python tests/config/settings_table.py`` prints the file as it should be; ``--write`` updates it.
"""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from pipeline.config.columns import Columns
from pipeline.config.detector import Detector, detector_names, load_detector_preset
from pipeline.config.job import Budget, Compute, Destination, Drift, Limits, Notify, Storage
from pipeline.config.presets import load_preset, preset_names
from pipeline.config.recipe import Recipe
from pipeline.config.rendition import Rendition, Shadow, load_rendition, rendition_names
from pipeline.config.run_options import RunOptions
from pipeline.config.second import Second
from pipeline.config.sections import Section

README = Path(__file__).resolve().parents[2] / "configs" / "README.md"

SECTIONS: dict[str, tuple[type[Section], str]] = {
    "recipe": (
        Recipe,
        "What changes pixels, scores or status. Everything here enters the fingerprint, except `name`, the paths of files, "
        "`outputs`, `renditions`\nand `review_below`.",
    ),
    "columns": (
        Columns,
        "Which columns of the manifest mean what. Options: `--image-column`, `--id-column`, `--box-column`, "
        "`--boxes-column`,\n`--label-column`.",
    ),
    "output": (Destination, "Where results go, and how their files are named."),
    "compute": (Compute, "Speed and machines. Nothing here enters the fingerprint."),
    "limits": (Limits, "What one image may cost. An image above a limit becomes a failed item."),
    "storage": (Storage, "Access to S3, and where images may be read from."),
    "budget": (Budget, "How many items may fail, and how long a run may take."),
    "drift": (Drift, "When a run warns that its results differ from the last accepted ones."),
    "notify": (Notify, "Where a run reports its end."),
    "run": (RunOptions, "Options of `matteline run`, for job files."),
    "detector": (
        Detector,
        "The keys of `recipe.detector`, or of `detector` in a detector's file. All enter the fingerprint, except `preset` and "
        "`weights`.",
    ),
    "second": (
        Second,
        "The keys of `recipe.second`. All enter the fingerprint, except `preset` and what never does (renditions).",
    ),
    "rendition": (Rendition, "The keys of a rendition file, or of an entry of `recipe.renditions`."),
    "shadow": (Shadow, "The keys of a rendition's `shadow`. Lengths are shares of the object's height."),
}

SIGNS = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}
NAMES = {int: "integer", float: "number", str: "text", bool: "true, false", SecretStr: "secret", Rendition: "rendition"}


def kind(annotation: Any) -> str:
    """Return a type in words, without None: an unset setting is what the column ``default`` shows."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(kind(one) for one in arguments if one is not types.NoneType))
    if origin is tuple:
        of = kind(arguments[0]) + ("s" if arguments[0] in (int, float, Rendition) else "")
        return f"list of {of}" if arguments[-1] is Ellipsis else f"{len(arguments)} {of}"
    return NAMES.get(annotation, "mapping")


def limits(field: FieldInfo) -> str:
    """Return the allowed range: ``1 to 256``, ``> 0``."""
    bounds = {type(one): getattr(one, type(one).__name__.lower()) for one in field.metadata if type(one) in SIGNS}
    if {Ge, Le} <= bounds.keys():
        return f" {number(bounds[Ge])} to {number(bounds[Le])}"
    return ",".join(f" {SIGNS[bound]} {number(value)}" for bound, value in bounds.items())


def number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def default(key: str, field: FieldInfo) -> str:
    """Return the default as YAML; a dash stands for unset."""
    value = field.default
    if field.is_required():
        return "the file's name" if key == "name" else "required"
    if value is None or value in ("", ()):
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(str(one) for one in value)}]`"
    return f"`{number(value)}`" if isinstance(value, int | float) else f"`{value}`"


def settings() -> str:
    """Return one table per section."""
    parts = []
    for name, (model, about) in SECTIONS.items():
        rows = [
            f"| `{key}` | {kind(field.annotation)}{limits(field)} | {default(key, field)} | {field.description} |"
            for key, field in model.model_fields.items()
        ]
        parts += [f"### {name}", "", about, "", "| name | type | default | description |", "|---|---|---|---|", *rows, ""]
    return "\n".join(parts)


def presets() -> str:
    """Return the table of bundled presets."""
    rows = ["| preset | licence of the weights | MB | for |", "|---|---|--:|---|"]
    for name in preset_names():
        preset = load_preset(name)
        licence = preset.licence if preset.commercial else f"{preset.licence}; needs `--accept-licence`"
        rows.append(f"| [`{name}`]({name}.yaml) | {licence} | {preset.size_mb:g} | {preset.describe()} |")
    return "\n".join([*rows, ""])


def detectors() -> str:
    """Return the table of bundled detectors."""
    rows = ["| detector | licence of the weights | MB | for |", "|---|---|--:|---|"]
    for name in detector_names():
        one = load_detector_preset(name)
        rows.append(f"| [`{name}`](detectors/{name}.yaml) | {one.licence} | {one.size_mb:g} | {one.about} |")
    return "\n".join([*rows, ""])


def renditions() -> str:
    """Return the table of bundled renditions."""
    rows = ["| rendition | file | for |", "|---|---|---|"]
    for name in rendition_names():
        one = load_rendition(name)
        rows.append(f"| [`{name}`](renditions/{name}.yaml) | {one.suffix} | {one.about} |")
    return "\n".join([*rows, ""])


TABLES = {"presets": presets, "detectors": detectors, "renditions": renditions, "settings": settings}


def updated(text: str) -> str:
    """Return the README with every generated part replaced.

    Raises:
        ValueError: A pair of markers is missing.
    """
    for name, table in TABLES.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        part = f"{begin}\n\n{table()}\n{end}"
        text, count = re.subn(f"{begin}.*?{end}", lambda _, part=part: part, text, flags=re.S)
        if count != 1:
            raise ValueError(f"{README.name} needs {begin} and {end} once")
    return text


if __name__ == "__main__":
    result = updated(README.read_text(encoding="utf-8"))
    if "--write" in sys.argv:
        README.write_text(result, encoding="utf-8")
    else:
        print(result, end="")
