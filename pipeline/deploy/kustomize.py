"""As much of Kustomize as ``infra/`` uses, so that nobody needs kubectl to render it; anything else is refused.

A test compares the result with that of ``kubectl kustomize``, overlay by overlay.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError

Tree = dict[str, Any]
KNOWN = {
    "apiVersion",
    "kind",
    "resources",
    "components",
    "configMapGenerator",
    "generatorOptions",
    "patches",
    "replacements",
}
LOCAL = "config.kubernetes.io/local-config"


def build(folder: Path, settings: Mapping[str, str] | None = None, instead: Mapping[str, str] | None = None) -> list[Tree]:
    """The Kubernetes objects of a kustomization.

    Args:
        folder: where its ``kustomization.yaml`` lies.
        settings: values for the ConfigMap ``settings``, over those of its file.
        instead: components by folder name, and the name of the one beside it that takes its place.

    Raises:
        ConfigError: a file is missing or not YAML, or uses more of Kustomize than is understood here.
    """
    objects: list[Tree] = []
    _accumulate(folder, objects, settings or {}, instead or {})
    return [thing for thing in objects if thing["metadata"].get("annotations", {}).get(LOCAL) != "true"]


def read(path: Path) -> list[Tree]:
    """The documents of a YAML file, with nothing shared between places that an anchor made equal.

    Raises:
        ConfigError: it is missing, or no YAML.
    """
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    unshared: list[Tree] = json.loads(json.dumps([document for document in documents if document is not None]))
    return unshared


def _accumulate(folder: Path, objects: list[Tree], settings: Mapping[str, str], instead: Mapping[str, str]) -> None:
    """One kustomization's own work on ``objects``, in Kustomize's order."""
    (text,) = read(folder / "kustomization.yaml")
    unknown = set(text) - KNOWN
    if unknown:
        raise ConfigError(f"{folder}: {min(unknown)} needs kubectl kustomize; only {', '.join(sorted(KNOWN))} are understood")
    for name in text.get("resources", []):
        path = folder / name
        if path.is_dir():
            _accumulate(path, objects, settings, instead)
            continue
        for thing in read(path):
            if (thing["kind"], thing["metadata"]["name"]) == ("ConfigMap", "settings"):
                thing["data"].update(settings)
            objects.append(thing)
    for each in text.get("configMapGenerator", []):
        data = {Path(name).name: (folder / name).read_text(encoding="utf-8") for name in each["files"]}
        metadata = {"name": each["name"], **each.get("options", {})}
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    for name in text.get("components", []):
        path = folder / name
        _accumulate(path.with_name(instead.get(path.name, path.name)), objects, settings, instead)
    for patch in text.get("patches", []):
        _patch(objects, patch)
    for replacement in text.get("replacements", []):
        _replace(objects, replacement)


def _selected(objects: list[Tree], select: Tree) -> list[Tree]:
    return [
        thing
        for thing in objects
        if thing["kind"] == select["kind"] and select.get("name") in (None, thing["metadata"]["name"])
    ]


def _patch(objects: list[Tree], patch: Tree) -> None:
    change = yaml.safe_load(patch["patch"])
    targets = _selected(objects, patch["target"])
    if isinstance(change, dict):
        if change.get("$patch") != "delete":
            raise ConfigError("a patch must be a list of JSON patch operations, or $patch: delete")
        objects[:] = [thing for thing in objects if not any(thing is target for target in targets)]
        return
    for target in targets:
        for step in change:
            *way, last = step["path"].strip("/").split("/")
            place: Any = target
            for key in way:
                place = place[int(key)] if isinstance(place, list) else place[_plain(key)]
            _apply(place, last, step)


def _plain(key: str) -> str:
    """A JSON pointer's key without its escapes."""
    return key.replace("~1", "/").replace("~0", "~")


def _apply(place: Any, last: str, step: Tree) -> None:
    value = copy.deepcopy(step.get("value"))
    if isinstance(place, list) and step["op"] == "add":
        place.insert(len(place) if last == "-" else int(last), value)
        return
    key: Any = int(last) if isinstance(place, list) else _plain(last)
    if step["op"] == "remove":
        del place[key]
    elif step["op"] in ("add", "replace"):
        place[key] = value
    else:
        raise ConfigError(f"a patch may add, replace and remove, not {step['op']}")


def _replace(objects: list[Tree], replacement: Tree) -> None:
    source = replacement["source"]
    (origin,) = _selected(objects, source)
    value: Any = origin
    for key in source["fieldPath"].split("."):
        value = value[key]
    if part := source.get("options"):
        value = value.split(part["delimiter"])[part["index"]]
    for target in replacement["targets"]:
        options = target.get("options", {})
        for thing in _selected(objects, target["select"]):
            for path in target["fieldPaths"]:
                for place, key in _places(thing, path.split(".")):
                    place[key] = _filled(place[key] if not options.get("create") else None, value, options)


def _filled(old: Any, value: Any, options: Tree) -> Any:
    """What takes the place of ``old``: its type stays, and with a delimiter all its parts but one."""
    if isinstance(value, dict):
        return copy.deepcopy(value)
    if "delimiter" in options:
        parts = str(old).split(options["delimiter"])
        parts[options["index"]] = value
        return options["delimiter"].join(parts)
    as_old: Callable[[Any], Any] = int if isinstance(old, int) else str
    return as_old(value)


def _places(thing: Any, path: list[str]) -> Iterator[tuple[Any, Any]]:
    """Containers and keys that a field path leads to; ``*`` is every element of a list."""
    first, *rest = path
    keys: list[Any] = [first]
    if isinstance(thing, list):
        keys = list(range(len(thing))) if first == "*" else [int(first)]
    for key in keys:
        if rest:
            yield from _places(thing[key], rest)
        else:
            yield thing, key
