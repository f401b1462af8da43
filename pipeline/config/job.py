"""Settings: what is made (``Recipe``) and how it is made (everything else).

The recipe alone decides pixels, so its fingerprint names the output; the other sections decide speed and tolerance and never
enter it. Precedence: code defaults < preset < job file < command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import Field, SecretStr, field_validator, model_validator

from pipeline.config.presets import DEFAULT_PRESET, Preset, load_preset
from pipeline.config.recipe import Recipe
from pipeline.config.sections import Section, build, read_yaml, yaml_fault
from pipeline.errors import ConfigError

CUDA_BATCH_MPX = 4.2
"""Four frames of 1024²: enough work for the smallest maps to fill a GPU, little enough for one of 16 GB."""

CPU_BATCH_MPX = 1.05
"""One frame of 1024²: a CPU is full with it (MVANet looks at five views), and a second one only takes memory."""

MAX_BATCH_SIZE = 16
"""However small the frames: the images themselves wait in memory at full size."""


class Compute(Section):
    """What changes speed only."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    engine: Literal["auto", "torch", "onnxruntime", "openvino"] = Field(
        default="auto", description="auto: OpenVINO on a CPU; on a GPU PyTorch for MVANet, ONNX Runtime for ONNX files"
    )
    ray_address: str | None = Field(default=None, description="an existing cluster; absent, one is started on this machine")
    actors: int | None = Field(
        default=None,
        ge=1,
        description="copies of the model; absent, one a GPU, or one on a CPU machine (of small networks, several)",
    )
    min_actors: int | None = Field(
        default=None, ge=1, description="a cluster with room for fewer when the run starts ends it, resumable"
    )
    max_actors: int | None = Field(
        default=None, ge=1, description="as many copies at most; while there are fewer, more are made as machines come"
    )
    wait_for_gpus: int | None = Field(
        default=None, ge=1, le=10_000, description="a cluster with fewer is waited for, and its autoscaler asked for them"
    )
    wait_s: float = Field(default=900.0, gt=0, description="how long; then the run works with what came")
    gpus_per_actor: float | None = Field(default=None, ge=0, le=8, description="absent, 1 where there are GPUs, else 0")
    cpus_per_actor: float | None = Field(default=None, ge=0, description="absent, 0 beside a GPU, else 1")
    threads_per_actor: int | None = Field(
        default=None, ge=1, description="CPU threads of one model; absent, the node's cores shared out"
    )
    batch_size: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="images per forward pass; default: as many as make 4.2 megapixels on a GPU, 1.05 on a CPU, up to 16",
    )
    rows_per_block: int | None = Field(default=None, ge=1, description="items a task; absent, from the manifest's length")
    rows_per_part: int | None = Field(default=None, ge=1, description="items an index part; absent, from the manifest's length")
    fetch_threads: int = Field(default=8, ge=1, le=128, description="objects read or written at once by one task")
    no_progress_s: int = Field(default=1800, ge=5, description="a run that finishes nothing for so long is given up")
    progress_s: float = Field(default=30.0, gt=0, le=3600, description="between two rewrites of progress/<run id>.json")

    @model_validator(mode="after")
    def _actors_are_fixed_or_grow(self) -> Compute:
        if self.actors and (self.min_actors or self.max_actors):
            raise ValueError("actors is a fixed number; give it, or min_actors and max_actors")
        if self.min_actors and self.max_actors and self.min_actors > self.max_actors:
            raise ValueError(f"min_actors={self.min_actors} is more than max_actors={self.max_actors}")
        return self

    def batch_size_for(self, frame_px: int, device: str) -> int:
        """Images in one forward pass on a device of this type (``cpu`` or ``cuda``), by the size of the frames."""
        if self.batch_size is not None:
            return self.batch_size
        batch_mpx = CUDA_BATCH_MPX if device == "cuda" else CPU_BATCH_MPX
        return min(MAX_BATCH_SIZE, max(1, int(batch_mpx * 1e6 / frame_px**2)))


class Limits(Section):
    """What one image may cost; above it the item fails."""

    max_pixels: int = Field(default=100_000_000, ge=1)
    max_bytes: int = Field(default=100_000_000, ge=1)
    fetch_s: float = Field(default=60.0, gt=0, description="until an image's bytes must be here, with all repeats")
    item_s: float = Field(
        default=240.0,
        gt=0,
        le=86_400,
        description="for an item in a stage, a batch in the model; then the process is ended",
    )


class Storage(Section):
    """Where S3 is and who asks; what is absent comes from the usual AWS variables and files."""

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    key: SecretStr | None = None
    secret: SecretStr | None = None
    token: SecretStr | None = None
    anonymous: bool = False
    allow_roots: tuple[str, ...] = Field(
        default=(), description="folders, prefixes and web addresses below which images may lie, besides the manifest's folder"
    )
    http: bool = Field(default=False, description="images may lie on any public web server (http:// and https://)")

    @model_validator(mode="after")
    def _key_has_a_secret(self) -> Storage:
        if (self.key is None) != (self.secret is None):
            raise ValueError("key and secret go together")
        return self


class Budget(Section):
    """What a run may cost: how many items may fail, and how long it may take."""

    max_failed_share: float = Field(default=0.05, ge=0, le=1)
    judged_after: int = Field(default=64, ge=1)
    deadline_s: float | None = Field(
        default=None, gt=0, description="seconds after its start from which a run takes up no more items; the next one goes on"
    )


class Drift(Section):
    """When a run warns that it isn't like the last accepted one; its exit code stays as it is."""

    accepted: str | None = Field(
        default=None,
        description="what it is compared with: an output, or a file of `matteline review accept`; absent, the run's own output",
    )
    quality: float = Field(default=0.1, ge=0, le=1, description="tolerated distance of the distributions (Kolmogorov-Smirnov)")
    review: float = Field(default=0.05, ge=0, le=1, description="tolerated change of the share of review")
    failed: float = Field(default=0.02, ge=0, le=1, description="tolerated change of the share of failed")
    confidence: float = Field(default=0.999, gt=0, lt=1, description="with which more than is tolerated must be certain")

    @property
    def tolerated(self) -> dict[str, float]:
        """By what may drift."""
        return {"quality": self.quality, "review": self.review, "failed": self.failed}


class Notify(Section):
    """Who is told when a run ends, however it ends."""

    to: SecretStr | None = Field(
        default=None,
        description="a webhook (https://…, POST of JSON), or a path or URI of a file that is replaced; secret, as webhooks are",
    )

    @field_validator("to")
    @classmethod
    def _is_a_place(cls, to: SecretStr | None) -> SecretStr | None:
        return None if to is None else SecretStr(place_to_tell(to.get_secret_value()))


def place_to_tell(text: str) -> str:
    """A webhook's address, or a file's path or URI, without the blanks and line ends that secrets are often stored with.

    Raises:
        ValueError: it is neither; the text isn't repeated, webhooks being secret.
    """
    place = text.strip()
    try:
        parts = urlsplit(place)
        bad = parts.scheme in ("http", "https") and (not parts.hostname or parts.port == 0)
    except ValueError:  # brackets that don't close, a port that is no number
        bad = True
    if bad or not place or place.startswith("mailto:") or (place.endswith("/") and parts.scheme not in ("http", "https")):
        raise ValueError("must be a webhook's address, or the path or URI of a file")
    return place


class Job(Section):
    """One run, whole."""

    manifest: str
    output: str
    preset: Preset
    compute: Compute = Compute()
    limits: Limits = Limits()
    storage: Storage = Storage()
    budget: Budget = Budget()
    drift: Drift = Drift()
    notify: Notify = Notify()

    @property
    def recipe(self) -> Recipe:
        return self.preset.recipe

    @model_validator(mode="after")
    def _hanging_items_end_before_the_run(self) -> Job:
        if 7 * self.limits.item_s > self.compute.no_progress_s:
            raise ValueError(
                f"limits.item_s={self.limits.item_s:g} is more than a seventh of compute.no_progress_s="
                f"{self.compute.no_progress_s}: three items of one batch that hang cost seven such times, and the run would be "
                "given up first; lower the one or raise the other"
            )
        return self

    def with_recipe(self, recipe: Recipe) -> Job:
        """The same job with its recipe pinned and settled."""
        return self.model_copy(update={"preset": self.preset.model_copy(update={"recipe": recipe})})


JOB_SECTIONS = ("recipe", "compute", "limits", "storage", "budget", "drift", "notify")


def parse_overrides(pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``["recipe.stretch=true"]`` as ``{"recipe": {"stretch": True}}``; values are read as YAML.

    Raises:
        ConfigError: not of the form section.key=value.
    """
    tree: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot and key) or section not in JOB_SECTIONS:
            raise ConfigError(f"--set {name!r} … is not section.key=value with a section of {', '.join(JOB_SECTIONS)}")
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {name}: the value can't be read: {yaml_fault(error)}") from None
        # Numbers and the like stay text, which pydantic reads by the key's type: a hash may look like a number.
        tree.setdefault(section, {})[key] = read if read is None or isinstance(read, str | list | dict) else value.strip()
    return tree


def load_job(
    *,
    manifest: str | None = None,
    output: str | None = None,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    job_file: str | None = None,
    renditions: Sequence[str] = (),
) -> Job:
    """The job that a command line describes, on top of a job file if one is named.

    Args:
        renditions: names (or paths) of further ones than the recipe has.

    Raises:
        ConfigError: something is missing, unknown or out of range.
    """
    content = read_yaml(Path(job_file)) if job_file else {}
    unknown = set(content) - {"manifest", "output", "preset", *JOB_SECTIONS}
    if unknown:
        raise ConfigError(
            f"{job_file}: unknown key {sorted(unknown)[0]!r}; there are manifest, output, preset, {', '.join(JOB_SECTIONS)}"
        )
    for name in JOB_SECTIONS:
        if not isinstance(content.get(name) or {}, dict):
            raise ConfigError(f"{job_file}: {name} must be a mapping of settings")
    for name in ("manifest", "output", "preset"):
        if not isinstance(content.get(name, ""), str):
            raise ConfigError(f"{job_file}: {name} must be text, not {content[name]!r}")
    given = parse_overrides(overrides)
    sections = {name: {**(content.get(name) or {}), **given.get(name, {})} for name in JOB_SECTIONS}
    recipe = sections.pop("recipe")
    facts = {
        "manifest": manifest or content.get("manifest"),
        "output": output or content.get("output"),
        "preset": load_preset(preset or content.get("preset") or DEFAULT_PRESET, recipe, renditions),
        **sections,
    }
    for needed in ("manifest", "output"):
        if not facts[needed]:
            raise ConfigError(f"no {needed}: give --{needed} a path or a URI")
    return build(Job, facts, job_file or "the command line")
