"""The settings that all items of an output share (``_matteline/recipe.json``): one output, one recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pipeline.config.detector import eases
from pipeline.config.recipe import Recipe, fingerprint_of
from pipeline.config.rendition import RESERVED
from pipeline.config.sections import Share, Stored, parse
from pipeline.errors import FetchError, StorageError
from pipeline.output.layout import OUTPUTS
from pipeline.output.output import Output


class Recorded(Stored):
    """The content of ``recipe.json``."""

    name: str
    fingerprint: str
    recipe: dict[str, Any]
    output_name: str | None
    outputs: list[str]
    renditions: dict[str, str]
    review_below: Share | None
    folders: list[str]
    complete: bool


def settings_of(recipe: Recipe, output_name: str | None) -> dict[str, Any]:
    """Return the settings that an output records.

    Args:
        recipe: With all hashes known.
        output_name: The template ``output.name``.
    """
    return {
        "name": recipe.name,
        "fingerprint": recipe.fingerprint(),
        "recipe": recipe.facts(),
        "output_name": output_name,
        "outputs": list(recipe.outputs),
        "renditions": {one.name: one.fingerprint() for one in recipe.renditions},
        "review_below": recipe.review_below,
        "folders": sorted(file.name for one in recipe.renditions for file in one.files),
        "complete": True,  # no finished item lacks an output or rendition
    }


def object_folders(settings: dict[str, Any] | None) -> list[str]:
    """Return the folders of an output that hold objects, those of former renditions included."""
    return [*(f"{output}s" for output in OUTPUTS), *(settings or {}).get("folders", ())]


def folders_in_the_way(output: Output, recipe: Recipe) -> list[str]:
    """Return the folders that a first run would write to and that exist already.

    Raises:
        StorageError: They cannot be looked up.
    """
    folders = [*object_folders(settings_of(recipe, None)), "index"]
    return [folder for folder in folders if output.files.is_folder(output.layout.uri(folder))]


def read_settings(output: Output) -> dict[str, Any] | None:
    """Return the recorded settings; None before the first run.

    Raises:
        StorageError: They cannot be read.
    """
    uri = output.layout.recipe
    if not output.files.exists(uri):
        return None
    try:
        settings = parse(Recorded, output.files.read(uri)).model_dump()
        # matteline gc removes files without a row from these folders, so none may be outside the output or above its objects.
        if outside := [folder for folder in settings["folders"] if not _is_rendition_folder(folder)]:
            raise ValueError(f"{outside[0][:60]!r} is no folder of a rendition")
    except (FetchError, ValueError) as error:
        raise StorageError(f"{uri} cannot be read ({error}); restore it, or run into another output") from error
    return settings


def _is_rendition_folder(folder: str) -> bool:
    return re.fullmatch(r"[a-z0-9][a-z0-9_-]*", folder) is not None and folder not in RESERVED


def recipe_label(output: Output) -> str:
    """Return name and fingerprint of an output's recipe: ``mvanet-lite-bf428fe462b9``; "" before the first run.

    Raises:
        StorageError: The settings cannot be read.
    """
    settings = read_settings(output)
    return f"{settings['name']}-{settings['fingerprint'][:12]}" if settings else ""


def write_settings(output: Output, settings: dict[str, Any]) -> None:
    """Record settings.

    Raises:
        StorageError: They cannot be written.
    """
    output.write(output.layout.recipe, json.dumps(settings, indent=2, ensure_ascii=False).encode())


def differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Yield the settings that need another output or a replacement of the items: ``recipe.frame_px 320, now 512``."""
    old, new = before["recipe"], now["recipe"]
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield f"recipe.{name} {_short(old.get(name))}, now {_short(new.get(name))}"
    if before["output_name"] != now["output_name"]:
        yield f"output.name {_short(before['output_name'])}, now {_short(now['output_name'])}"


def eases_detector(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return whether items that did not fail have the same results with both settings.

    That is so if the only difference is a detector that lets fewer items fail (``config.detector.eases``) and takes the box of
    the highest score: a lower threshold adds boxes of lower scores.

    Args:
        before: Settings that an output records.
        now: Others.
    """
    old, new = before["recipe"], now["recipe"]
    different = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    if different != {"detector"} or before["output_name"] != now["output_name"]:
        return False
    first, second = old.get("detector"), new.get("detector")
    if not isinstance(first, dict) or not isinstance(second, dict) or first.keys() != second.keys():
        return False
    try:
        eased = eases(first, second, [name for name in second if first[name] != second[name]])
        made_by_this_version = fingerprint_of(old) == before["fingerprint"]
    except (TypeError, ValueError):  # recipe.json was changed by hand
        return False
    return eased and second["many"] == "best" and made_by_this_version


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:36]}…{text[-1]}"
