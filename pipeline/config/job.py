"""Define the settings of a job, and load them from a job file and the command line.

Only the recipe changes pixels, so an output has one recipe, and each row its fingerprint. The other sections change speed and
tolerance, and are not part of it. Precedence: code defaults < preset < job file < command line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import Field, SecretStr, field_validator, model_validator

from pipeline.config.columns import Columns
from pipeline.config.presets import DEFAULT_PRESET, Preset, load_preset
from pipeline.config.recipe import Recipe
from pipeline.config.run_options import RunOptions
from pipeline.config.sections import Section, build, check_texts, parse_yaml, read_yaml, yaml_problem
from pipeline.errors import ConfigError
from pipeline.paths import example_path

CUDA_BATCH_MPX = 4.2
"""Megapixels per batch on a GPU: four frames of 1024² keep it busy and fit into 16 GB."""

CPU_BATCH_MPX = 1.05
"""Megapixels per batch on a CPU: one frame of 1024² keeps it busy, a second one only takes memory."""

MAX_BATCH_SIZE = 16
"""Images per batch, at most: they wait in memory at full size, however small the frames are."""


class Compute(Section):
    """Settings that change speed only."""

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: a GPU where there is one.")
    engine: Literal["auto", "torch", "onnxruntime", "openvino"] = Field(
        default="auto",
        description="auto: OpenVINO on a CPU; on a GPU, PyTorch for MVANet and ONNX Runtime for ONNX files.",
    )
    ray_address: str | None = Field(
        default=None, description="Address of an existing Ray cluster. Default: start one on this machine."
    )
    local_items: int = Field(
        default=100,
        ge=0,
        description="A run of at most this many items works in one process on this machine, without Ray. 0: always use Ray.",
    )
    actors: int | None = Field(
        default=None,
        ge=1,
        description="Actors that hold the model. Default: one per GPU, or per machine without GPUs (small networks: up to 4).",
    )
    min_actors: int | None = Field(
        default=None,
        ge=1,
        description="Minimum number of actors. If the cluster has room for fewer at the start, the run stops with exit code 4.",
    )
    max_actors: int | None = Field(
        default=None, ge=1, description="Maximum number of actors. The pool grows when machines join during the run."
    )
    wait_for_gpus: int | None = Field(
        default=None, ge=1, le=10_000, description="GPUs to request from the autoscaler and to wait for before the run starts."
    )
    wait_s: float = Field(
        default=900.0, gt=0, description="Timeout of wait_for_gpus in seconds; then the run uses the available GPUs."
    )
    gpus_per_actor: float | None = Field(
        default=None,
        ge=0,
        le=8,
        description="GPUs per actor; 0.5 puts two actors on one GPU. Default: 1 if the cluster has GPUs, else 0.",
    )
    cpus_per_actor: float | None = Field(default=None, ge=0, description="CPUs per actor. Default: 0 with a GPU, else 1.")
    threads_per_actor: int | None = Field(
        default=None, ge=1, description="CPU threads per actor. Default: the node's cores divided by its actors."
    )
    batch_size: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="Images per forward pass. Default: 4.2 megapixels of frames on a GPU, 1.05 on a CPU, at most 16 images.",
    )
    rows_per_block: int | None = Field(
        default=None, ge=1, description="Items per task. Default: depends on the number of items."
    )
    rows_per_part: int | None = Field(
        default=None, ge=1, description="Items per index part. Default: depends on the number of items."
    )
    fetch_threads: int = Field(default=8, ge=1, le=128, description="Concurrent reads or writes per task.")
    no_progress_s: int = Field(default=1800, ge=5, description="Stop a run that finishes no item for this many seconds.")
    progress_s: float = Field(default=30.0, gt=0, le=3600, description="Seconds between two updates of progress/<run id>.json.")

    @model_validator(mode="after")
    def _actors_are_fixed_or_grow(self) -> Compute:
        if self.actors and (self.min_actors or self.max_actors):
            raise ValueError("actors is a fixed number; set either actors, or min_actors and max_actors")
        if self.min_actors and self.max_actors and self.min_actors > self.max_actors:
            raise ValueError(f"min_actors={self.min_actors} is more than max_actors={self.max_actors}")
        return self

    def batch_size_for(self, frame_px: int, device: str) -> int:
        """Return the images per forward pass on a device (``cpu`` or ``cuda``) for frames of this size."""
        if self.batch_size is not None:
            return self.batch_size
        batch_mpx = CUDA_BATCH_MPX if device == "cuda" else CPU_BATCH_MPX
        return min(MAX_BATCH_SIZE, max(1, int(batch_mpx * 1e6 / frame_px**2)))


class Limits(Section):
    """Limits of one image or video. An item that exceeds them fails."""

    max_pixels: int = Field(
        default=100_000_000, ge=1, description="Maximum number of pixels per image, and per frame of a video."
    )
    max_bytes: int = Field(default=100_000_000, ge=1, description="Maximum number of bytes per image.")
    max_frames: int = Field(default=1_000_000, ge=1, description="Maximum number of frames per video.")
    max_seconds: float = Field(default=14_400.0, gt=0, description="Maximum length of a video in seconds.")
    fetch_s: float = Field(default=60.0, gt=0, description="Timeout for reading an image in seconds, retries included.")
    item_s: float = Field(
        default=240.0,
        gt=0,
        le=86_400,
        description="Timeout per item and stage (in the model: per batch) in seconds. After it, the worker process is killed.",
    )


class Storage(Section):
    """S3 endpoint and credentials. Defaults come from the usual AWS variables and files."""

    endpoint_url: str | None = Field(default=None, description="S3-compatible server. Default: AWS_ENDPOINT_URL, or AWS.")
    region: str | None = Field(default=None, description="AWS region. Default: AWS_DEFAULT_REGION, or the profile's.")
    profile: str | None = Field(default=None, description="Profile in ~/.aws. Default: AWS_PROFILE.")
    key: SecretStr | None = Field(default=None, description="Access key id. Default: the usual AWS credential chain.")
    secret: SecretStr | None = Field(default=None, description="Secret access key; goes with key.")
    token: SecretStr | None = Field(default=None, description="Session token of temporary credentials.")
    anonymous: bool = Field(default=False, description="Send requests without credentials, for public buckets.")
    allow_roots: tuple[str, ...] = Field(
        default=(),
        description="Allow-list for image URIs, besides the manifest's folder: folders, prefixes and web addresses.",
    )
    http: bool = Field(default=False, description="Allow images on any public web server (http:// and https://).")

    @model_validator(mode="after")
    def _key_has_a_secret(self) -> Storage:
        if (self.key is None) != (self.secret is None):
            raise ValueError("set both key and secret, or neither")
        return self


class Destination(Section):
    """Place of the results, and names of their files. In a job file, ``output: FOLDER`` is enough."""

    uri: str = Field(description="Path or URI of the output.")
    name: str | None = Field(
        default=None,
        description='File names from manifest columns, such as "{sku}/{image}-{suffix}". Default: {item_id} where the manifest '
        "has it, else {image}.",
    )


class Budget(Section):
    """Limits of a run: failed items, and time."""

    max_failed_share: float = Field(
        default=0.05, ge=0, le=1, description="Maximum share of failed items in a run; above it, the exit code is 3."
    )
    allowed_failed: int = Field(
        default=10, ge=0, description="Number of failed items in a run that never ends it, whatever their share is."
    )
    judged_after: int = Field(default=64, ge=1, description="Items after which the share is first checked during the run.")
    deadline_s: float | None = Field(
        default=None,
        gt=0,
        description="Seconds after its start from which a run begins no more items. The same command continues it.",
    )


class Drift(Section):
    """Limits above which a run warns that it differs from the baseline. The exit code is not affected."""

    accepted: str | None = Field(
        default=None,
        description="Baseline: an output, or a file from `matteline review accept`. Default: the output's last accepted items.",
    )
    quality: float = Field(default=0.1, ge=0, le=1, description="Tolerated Kolmogorov-Smirnov distance of the quality.")
    review: float = Field(default=0.05, ge=0, le=1, description="Tolerated change of the share of items with status review.")
    failed: float = Field(default=0.02, ge=0, le=1, description="Tolerated change of the share of failed items.")
    confidence: float = Field(default=0.999, gt=0, lt=1, description="Required confidence that a change exceeds its tolerance.")

    @property
    def tolerated(self) -> dict[str, float]:
        """Tolerances by name."""
        return {"quality": self.quality, "review": self.review, "failed": self.failed}


class Notify(Section):
    """Destination of the notification about the end of a run."""

    to: SecretStr | None = Field(
        default=None,
        description="Webhook that receives a POST of JSON, or path or URI of a file to write. Webhook addresses are secret.",
    )

    @field_validator("to")
    @classmethod
    def _is_a_target(cls, to: SecretStr | None) -> SecretStr | None:
        return None if to is None else SecretStr(parse_notify_target(to.get_secret_value()))


def parse_notify_target(text: str) -> str:
    """Return the address of a webhook, or the path or URI of a file, without surrounding white space.

    Raises:
        ValueError: It is neither. The message does not repeat the text, because webhook addresses are secret.
    """
    target = text.strip()
    try:
        parts = urlsplit(target)
        bad = parts.scheme in ("http", "https") and (not parts.hostname or parts.port == 0)
    except ValueError:  # unbalanced brackets, or a port that is not a number
        bad = True
    if bad or not target or target.startswith("mailto:") or (target.endswith("/") and parts.scheme not in ("http", "https")):
        raise ValueError("must be the address of a webhook, or the path or URI of a file")
    return target


class Job(Section):
    """All settings of one run."""

    manifest: str
    output: Destination
    preset: Preset
    columns: Columns = Columns()
    compute: Compute = Compute()
    limits: Limits = Limits()
    storage: Storage = Storage()
    budget: Budget = Budget()
    drift: Drift = Drift()
    notify: Notify = Notify()
    run: RunOptions = RunOptions()

    @property
    def recipe(self) -> Recipe:
        """Recipe of the preset."""
        return self.preset.recipe

    @model_validator(mode="after")
    def _hanging_items_end_before_the_run(self) -> Job:
        if 7 * self.limits.item_s > self.compute.no_progress_s:
            raise ValueError(
                f"limits.item_s={self.limits.item_s:g} is more than a seventh of compute.no_progress_s="
                f"{self.compute.no_progress_s}: if three items of one batch hang, that takes seven such timeouts, and the "
                "run would be stopped first; lower limits.item_s or raise compute.no_progress_s"
            )
        return self

    def with_recipe(self, recipe: Recipe) -> Job:
        """Return the job with another recipe."""
        return self.model_copy(update={"preset": self.preset.model_copy(update={"recipe": recipe})})

    def with_run(self, **options: Any) -> Job:
        """Return the job with other options, such as ``changed=True`` or ``retry=("fetch",)``."""
        return self.model_copy(update={"run": self.run.model_copy(update=options)})


JOB_SECTIONS = ("output", "recipe", "columns", "compute", "limits", "storage", "budget", "drift", "notify", "run")

TEXTS = {"output.name", "recipe.video_background"}
"""Settings whose braces and # are not those of YAML."""


def parse_overrides(pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Parse ``["recipe.stretch=true"]`` to ``{"recipe": {"stretch": "true"}}``. Lists and mappings are read as YAML.

    Raises:
        ConfigError: A pair is not of the form section.key=value.
    """
    tree: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot and key) or section not in JOB_SECTIONS:
            raise ConfigError(f"--set {name!r} … is not section.key=value with a section of {', '.join(JOB_SECTIONS)}")
        try:
            read = value if f"{section}.{key}" in TEXTS else parse_yaml(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {name}: the value is not valid YAML: {yaml_problem(error)}") from None
        # Numbers stay text, which pydantic parses by the type of the setting: a hash may look like a number.
        tree.setdefault(section, {})[key] = read if read is None or isinstance(read, str | list | dict) else value.strip()
    return tree


def nest_settings(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Convert ``{"recipe.stretch": True}`` to ``{"recipe": {"stretch": True}}``.

    Raises:
        ConfigError: A name is not of the form section.key.
    """
    tree: dict[str, dict[str, Any]] = {}
    for name, value in given.items():
        section, dot, key = str(name).partition(".")
        if not (dot and key) or section not in JOB_SECTIONS:
            raise ConfigError(f"settings: {name!r} is not section.key with a section of {', '.join(JOB_SECTIONS)}")
        tree.setdefault(section, {})[key] = os.fspath(value) if isinstance(value, os.PathLike) else value
    return tree


def load_job(
    *,
    manifest: str | None = None,
    output: str | None = None,
    preset: str | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    job_file: str | None = None,
    renditions: Sequence[str] = (),
    allow_roots: Sequence[str] = (),
) -> Job:
    """Build a job from a job file and the values of the command line or of ``pipeline.run``, which take precedence.

    Args:
        manifest: Path or URI. ``examples/…`` leads to the bundled photos.
        output: Path or URI.
        preset: Name or path.
        overrides: ``section.key=value`` pairs, or values by ``section.key``.
        job_file: Path of a YAML file.
        renditions: Names or paths of renditions to add to the recipe's.
        allow_roots: Roots to add to those of the settings.

    Raises:
        ConfigError: A setting is missing, unknown, out of range, or not UTF-8.
    """
    facts = merge_settings(manifest=manifest, output=output, preset=preset, overrides=overrides, job_file=job_file)
    for needed, value in (("manifest", facts["manifest"]), ("output", facts["output"].get("uri"))):
        if not value:
            raise ConfigError(f"no {needed}: give --{needed} a path or a URI")
    check_texts(facts)
    facts["preset"] = load_preset(facts["preset"] or DEFAULT_PRESET, facts.pop("recipe"), renditions)
    job = build(Job, facts, job_file or ("settings" if isinstance(overrides, Mapping) else "the command line"))
    allowlist = (*job.storage.allow_roots, *allow_roots)
    return job.model_copy(update={"storage": job.storage.model_copy(update={"allow_roots": allowlist})})


def merge_settings(
    *,
    manifest: str | None = None,
    output: str | None = None,
    preset: str | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    job_file: str | None = None,
) -> dict[str, Any]:
    """Return the settings of a job file and the command line as one job file would hold them. Arguments: see ``load_job``.

    ``manifest`` and ``preset`` may be None; every section is a mapping, which may be empty. Values are not checked yet.

    Raises:
        ConfigError: A key of the job file is unknown or of another type, or a pair has another form.
    """
    content = read_yaml(Path(job_file)) if job_file else {}
    if isinstance(content.get("output"), str):
        content["output"] = {"uri": content["output"]}
    unknown = set(content) - {"manifest", "preset", *JOB_SECTIONS}
    if unknown:
        raise ConfigError(
            f"{job_file}: unknown key {min(map(str, unknown))[:60]!r}; use manifest, preset, {', '.join(JOB_SECTIONS)}"
        )
    for name in JOB_SECTIONS:
        if not isinstance(content.get(name) or {}, dict):
            raise ConfigError(f"{job_file}: {name} must be a mapping of settings")
    for name in ("manifest", "preset"):
        if not isinstance(content.get(name, ""), str):
            raise ConfigError(f"{job_file}: {name} must be text, not {type(content[name]).__name__}")
    given = nest_settings(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
    sections = {name: {**(content.get(name) or {}), **given.get(name, {})} for name in JOB_SECTIONS}
    if output:
        sections["output"]["uri"] = output
    chosen = example_path(manifest) if manifest else content.get("manifest")
    return {"manifest": chosen, "preset": preset or content.get("preset"), **sections}
