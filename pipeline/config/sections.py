"""What all settings have in common: frozen sections, YAML files, and refusals of one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from pipeline.errors import ConfigError


class Section(BaseModel):
    """Base of all settings: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _positive(std: tuple[float, float, float]) -> tuple[float, float, float]:
    if min(std) <= 0:
        raise ValueError("every std must be above 0")
    return std


Std = Annotated[tuple[float, float, float], AfterValidator(_positive)]
"""What a network's input is divided by, for each colour."""

S = TypeVar("S", bound=Section)


def build(kind: type[S], facts: Mapping[str, Any], where: str) -> S:
    """Validate settings, turning pydantic's report into one sentence.

    Raises:
        ConfigError: naming the place, the key, what is wrong and, for a misspelt key, the nearest right one.
    """
    try:
        return kind.model_validate(facts)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or kind.__name__.lower()
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ConfigError(f"{where}: {key}: {first['msg'].removeprefix('Value error, ')}{more}") from None


def bundled_file(name_or_path: str, folder: Path, kind: str) -> Path:
    """The YAML file of a bundled thing by its name, or a user's own by its path.

    Raises:
        ConfigError: nothing of that name is bundled.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        return path
    names = bundled_names(folder)
    if name_or_path not in names:
        raise ConfigError(f"no {kind} {name_or_path!r}; there are {', '.join(names)}, or give the path of a .yaml file")
    return folder / f"{name_or_path}.yaml"


def bundled_names(folder: Path) -> list[str]:
    """Names of the YAML files in a folder, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping.

    Raises:
        ConfigError: unreadable, not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} can't be read as YAML: {yaml_fault(error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of settings")
    return content


def from_beside(file: Path, named: str) -> str:
    """A path that a YAML file names, which starts at the file's own folder; URIs and absolute paths as they are."""
    return named if "://" in named or Path(named).is_absolute() else str((file.parent / named).resolve())


def yaml_fault(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the text itself, which may be a secret."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or "not YAML"
    return f"{problem}, line {mark.line + 1}" if mark else str(problem)
