"""Settings that users write or exchange: YAML files of every sort, and calibrations."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import yaml
from kinds import Kind, Wrong
from mutations import DEPTHS, damage_json

from pipeline.config.job import load_job
from pipeline.config.presets import load_preset
from pipeline.config.rendition import load_rendition
from pipeline.paths import CONFIGS, WEIGHTS
from pipeline.quality.calibration import read_calibration
from pipeline.training.recipe import load_training

JOB = {
    "manifest": "manifest.csv",
    "preset": "mvanet-lite",
    "output": {"uri": "out", "name": "{item_id}"},
    "recipe": {"outputs": ["mask"], "renditions": [{"name": "shop", "size_px": [256], "background": "#ffffff"}]},
    "limits": {"fetch_s": 5.0},
    "storage": {"allow_roots": ["photos"]},
}
TOKENS = (
    *(
        b"!!int x",
        b"!!bool x",
        b"!!timestamp x",
        b"!!float x",
        b"!!binary x",
        b"!!python/object:os.system x",
        b"!!set {a}",
        b"!!omap x",
    ),
    *(
        b"2026-99-99",
        b"2026-01-01T00:00:00+99:99",
        b"0o9",
        b"0x",
        b"1:99",
        b"9" * 5000,
        b".nan",
        b".inf",
        b"&a [*a]",
        b"*a",
        b"<<: *a",
    ),
    *(
        b"? [1, 2]",
        b"{1: 2}",
        b"- ",
        b": ",
        b"\n",
        b"  ",
        b"\t",
        b"'",
        b'"\\ud800"',
        b'"\\0"',
        b"|",
        b"~",
        b"#",
        b"---\n",
        b"\xff",
        b"=",
    ),
)


def yaml_kind() -> Kind:
    paths = [
        *sorted(CONFIGS.glob("*.yaml"))[:2],
        *sorted(CONFIGS.glob("renditions/*.yaml"))[:2],
        *sorted(CONFIGS.glob("training/*.yaml"))[:1],
    ]
    samples = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in paths} | {
        "job/job.yaml": yaml.safe_dump(JOB).encode()
    }

    def read(name: str, data: bytes) -> None:
        Path("file.yaml").write_bytes(data)
        sort = name.partition(": ")[2].partition("/")[0]
        if sort == "job":
            load_job(job_file="file.yaml")
        elif sort == "renditions":
            load_rendition("file.yaml").fingerprint()
        elif sort == "training":
            load_training("file.yaml")
        else:
            load_preset("file.yaml")
            load_preset("file.yaml", renditions=["transparent"])
        if len(data) < 100:
            text = data.decode(errors="replace")
            load_job(manifest="m.csv", output="out", overrides=[f"recipe.outputs={text}"])

    def values(rng: random.Random, name: str) -> bytes:
        return damage_json(rng, yaml.safe_load(samples[name]))  # JSON is YAML

    def expanding(rng: random.Random, name: str) -> bytes:
        """Return a file whose aliases stand for up to ten thousand million values, under a key of the sample."""
        lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
        lines += [
            f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]"
            for before, after in zip("abcdefgh", "bcdefghi", strict=True)
        ]
        key = rng.choice(list(yaml.safe_load(samples[name])))
        return "\n".join([*lines, f"{key}: *{rng.choice('abcdefghi')}"]).encode()

    def deep(rng: random.Random, name: str) -> bytes:
        depth = rng.choice(DEPTHS)
        key = rng.choice(list(yaml.safe_load(samples[name])))
        return samples[name] + f"\n{key}: {'[' * depth}{']' * depth}".encode()

    def one_value(rng: random.Random, _: str) -> bytes:
        return rng.choice(TOKENS) + rng.choice((b"", rng.choice(TOKENS)))

    return Kind(samples, read, {"values": values, "expanding": expanding, "deep": deep, "one value": one_value}, TOKENS)


def calibration_kind() -> Kind:
    samples = {path.name: path.read_bytes() for path in sorted(WEIGHTS.glob("*.calibration.json"))}

    def read(_: str, data: bytes) -> None:
        calibration = read_calibration(data, "the calibration")
        for value in (None, 0.0, 0.5, 1e30, math.nan):
            signals: dict[str, Any] = dict.fromkeys(calibration.terms, value)
            found = calibration.probability(signals)
            if not 0 < found < 1 or len(calibration.reasons(signals)) > 2:
                raise Wrong(f"the probability {found}")

    return Kind(samples, read, {"values": lambda rng, name: damage_json(rng, json.loads(samples[name]))})


KINDS = {"YAML settings": yaml_kind, "calibrations": calibration_kind}
