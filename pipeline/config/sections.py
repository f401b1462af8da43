"""Provide what all settings share: frozen sections, YAML files, and one-sentence validation errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import ConfigError
from pipeline.paths import WEIGHTS


class Section(BaseModel):
    """Base of all settings. Immutable; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _positive(std: tuple[float, float, float]) -> tuple[float, float, float]:
    if min(std) <= 0:
        raise ValueError("every std must be above 0")
    return std


Std = Annotated[tuple[float, float, float], AfterValidator(_positive)]
"""Divisor of a network's input per colour channel, above 0."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A number in [0, 1]."""

S = TypeVar("S", bound=Section)
MAX_NAMED = 10
"""Further keys with a problem that an error names."""

BUNDLED = "bundled:"
"""Prefix of a file of ``pipeline/weights``, in a preset or another YAML file."""


def build(kind: type[S], facts: Mapping[str, Any], where: str) -> S:
    """Validate settings.

    Raises:
        ConfigError: One sentence that names the source, the key and the problem.
    """
    try:
        return kind.model_validate(facts)
    except ValidationError as error:
        first, *others = error.errors(include_url=False, include_input=False)
        key = _key(first) or kind.__name__.lower()
        more = f" (and {', '.join(_key(one) for one in others[:MAX_NAMED])})" if others else ""
        raise ConfigError(f"{where}: {key}: {first['msg'].removeprefix('Value error, ')}{more}") from None


def _key(problem: Any) -> str:
    return ".".join(str(part) for part in problem["loc"])


def bundled_file(name_or_path: str, folder: Path, kind: str) -> Path:
    """Return the path of a bundled YAML file by name, or of a user's own by path.

    Raises:
        ConfigError: No bundled file has that name.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        return path
    names = bundled_names(folder)
    if name_or_path not in names:
        raise ConfigError(
            f"there is no {kind} {name_or_path!r}; choose from {', '.join(names)}, or give the path of a .yaml file"
        )
    return folder / f"{name_or_path}.yaml"


def bundled_names(folder: Path) -> list[str]:
    """Return the names of the YAML files in a folder, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or holds no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {yaml_problem(error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must contain a mapping of settings")
    return content


def from_beside(file: Path, named: str) -> str:
    """Resolve a path in a YAML file: ``bundled:NAME`` to ``pipeline/weights``, a relative path to the file's own folder.

    URIs and absolute paths are returned unchanged.
    """
    if named.startswith(BUNDLED):
        return str(WEIGHTS / named.removeprefix(BUNDLED))
    return named if "://" in named or Path(named).is_absolute() else str((file.parent / named).resolve())


def yaml_problem(error: yaml.YAMLError) -> str:
    """Return the problem and its line, without the text, which may be secret."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or "not YAML"
    return f"{problem}, line {mark.line + 1}" if mark else str(problem)
