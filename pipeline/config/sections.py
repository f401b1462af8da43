"""Provide what all settings share: frozen sections, YAML files, and one-sentence validation errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import ConfigError
from pipeline.paths import WEIGHTS


class Section(BaseModel):
    """Base of all settings. Immutable; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Stored(Section):
    """Base of JSON objects that an earlier run wrote. Types are strict, and fields of other versions are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)


def _positive(std: tuple[float, float, float]) -> tuple[float, float, float]:
    if min(std) <= 0:
        raise ValueError("every std must be above 0")
    return std


Std = Annotated[tuple[float, float, float], AfterValidator(_positive)]
"""Divisor of a network's input per colour channel, above 0."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A number in [0, 1]."""

Count = Annotated[int, Field(ge=0, le=2**40)]
"""A number of items. A thousand of them can be added in 64 bits."""

Moment = Annotated[float, Field(ge=0, le=2**40)]
"""Seconds since 1970, or a duration in seconds."""


def _is_time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("the time has no zone")
    return text


Time = Annotated[str, AfterValidator(_is_time)]
"""A time in ISO 8601 with its zone."""

S = TypeVar("S", bound=Section)
MAX_NAMED = 10
"""Further keys with a problem that an error names."""

MAX_KEY = 60
"""Characters of one part of a key in an error."""

MAX_BRACKETS = 1000
"""Brackets in a YAML text. PyYAML takes the square of their nesting in time: minutes for a file of 100 kB."""

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
        raise ConfigError(f"{where}: {_problems(kind, error)}") from None


def check_texts(facts: Mapping[str, Any]) -> None:
    """Check that settings can be recorded in an output.

    Raises:
        ConfigError: A text of them is not UTF-8. It names the setting, whose value may be secret.
    """
    for section, value in facts.items():
        inside = value.items() if isinstance(value, Mapping) else [("", value)]
        for key, one in inside:
            try:
                json.dumps(one, ensure_ascii=False, default=str, skipkeys=True).encode()
            except UnicodeEncodeError:
                name = f"{section}.{key}" if key else section
                raise ConfigError(f"{name}: its text is not UTF-8; rename the file, folder or column that it names") from None


def parse(kind: type[S], data: bytes) -> S:
    """Parse and validate JSON.

    Raises:
        ValueError: In one sentence, which does not quote the data.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise ValueError(_problems(kind, error)) from None


def _problems(kind: type[Section], error: ValidationError) -> str:
    """Return the first problem in words, and the keys of further ones."""
    first, *others = error.errors(include_url=False, include_input=False)
    key = _key(first) or kind.__name__.lower()
    more = f" (and {', '.join(_key(one) for one in others[:MAX_NAMED])})" if others else ""
    return f"{key}: {first['msg'].removeprefix('Value error, ')}{more}"


def _key(problem: Any) -> str:
    """Return where a problem is. Keys of a damaged file may be long, or no text."""
    return ".".join(str(part)[:MAX_KEY].encode(errors="replace").decode() for part in problem["loc"])


def bundled_file(name_or_path: str, folder: Path, kind: str) -> Path:
    """Return the path of a bundled YAML file by name, regardless of case, or of a user's own by path.

    Raises:
        ConfigError: No bundled file has that name.
    """
    path = Path(name_or_path)
    if path.suffix.lower() in {".yaml", ".yml"}:
        return path
    names = bundled_names(folder)
    if name_or_path.lower() not in names:
        raise ConfigError(
            f"there is no {kind} {name_or_path!r}; choose from {', '.join(names)}, or give the path of a .yaml file"
        )
    return folder / f"{name_or_path.lower()}.yaml"


def bundled_names(folder: Path) -> list[str]:
    """Return the names of the YAML files in a folder, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or holds no mapping.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {yaml_problem(error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must contain a mapping of settings")
    return content


def parse_yaml(text: str) -> Any:
    """Parse YAML.

    Raises:
        YAMLError: It is not valid. That includes dates, numbers and nesting at which PyYAML raises other exceptions.
    """
    if text.count("[") + text.count("{") > MAX_BRACKETS:
        raise yaml.YAMLError(f"it has more than {MAX_BRACKETS} brackets")
    try:
        return yaml.safe_load(text)
    except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError) as error:
        raise yaml.YAMLError(f"a value cannot be read ({type(error).__name__}); quote texts, and nest less deeply") from error


def from_beside(file: Path, named: str) -> str:
    """Resolve a path in a YAML file: ``bundled:NAME`` to ``pipeline/weights``, a relative path to the file's own folder.

    URIs and absolute paths are returned unchanged.

    Raises:
        ConfigError: The path is invalid.
    """
    if named.startswith(BUNDLED):
        return str(WEIGHTS / named.removeprefix(BUNDLED))
    if "://" in named or Path(named).is_absolute():
        return named
    try:
        return str((file.parent / named).resolve())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file.name}: a path in it is invalid: {error}") from error


def yaml_problem(error: yaml.YAMLError) -> str:
    """Return the problem and its line, without the text, which may be secret."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or "not YAML"
    return f"{problem}, line {mark.line + 1}" if mark else str(problem)
