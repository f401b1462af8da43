"""The kinds of files that strangers write or storage damages: valid samples, ways to damage them, and their readers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module

from mutations import damage

DamageOne = Callable[[random.Random, str], bytes]
"""Returns a damaged file that is made from the sample of this name."""


class Wrong(Exception):
    """A reader accepted a file and returned something impossible."""


@dataclass(frozen=True)
class Kind:
    """A kind of files."""

    samples: Mapping[str, bytes]
    """Valid files, by name."""
    read: Callable[[str, bytes], None]
    """Reads a file, given its name ("way of damage: sample") and content.

    Raises:
        PipelineError: It is refused.
        Wrong: Its content, as read, is impossible.
    """
    damages: Mapping[str, DamageOne] = field(default_factory=dict)
    """Ways to damage a sample that know its format, beside those of its bytes."""
    tokens: tuple[bytes, ...] = ()
    """Pieces with a meaning in the format, for ``damage``."""
    byte_share: float = 0.4
    """Share of the damaged files whose bytes are damaged."""


def sample(kind: Kind, seed: str, number: int) -> tuple[str, bytes]:
    """Return name and content of a file. The first ones are the valid samples."""
    names = list(kind.samples)
    if number < len(names):
        return f"valid: {names[number]}", kind.samples[names[number]]
    rng = random.Random(f"{seed}/{number}")
    name = rng.choice(names)
    if not kind.damages or rng.random() < kind.byte_share:
        others = [kind.samples[one] for one in names if one != name]
        return f"bytes: {name}", damage(rng, kind.samples[name], others, kind.tokens)
    way = rng.choice(list(kind.damages))
    return f"{way}: {name}", kind.damages[way](rng, name)


_MODULES = {
    "manifest_kinds": {"Parquet manifests": 6000, "CSV manifests": 6000, "JSON Lines manifests": 6000, "COCO files": 3000},
    "output_kinds": {
        **{"index parts": 1000, "leases": 1500, "run records": 1500, "progress": 1000, "settings": 1000},
        **{"overwrite notes": 1000, "baselines": 1500, "samples": 1500, "review parts": 2000, "review CSVs": 2000},
    },
    "settings_kinds": {"YAML settings": 2000, "calibrations": 3000},
    "weights_kinds": {"safetensors": 2000, "PyTorch files": 1000, "training checkpoints": 1500, "ONNX files": 2000},
    "http_kinds": {"HTTP answers": 1500},
    "video_kinds": {"videos": 1500, "written videos": 500, "kept masks": 1000},
}
"""The kinds of each module, with their numbers of files in ``make fuzz``; as many as their time allows."""

COUNTS = {kind: count for counts in _MODULES.values() for kind, count in counts.items()}


def load_kind(name: str) -> Kind:
    """Return a kind, and import only what it needs."""
    module = next(module for module, counts in _MODULES.items() if name in counts)
    kind: Kind = import_module(module).KINDS[name]()
    return kind
