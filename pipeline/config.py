"""Settings: what is made (``Recipe``) and how it is made (everything else).

The recipe alone decides pixels, so its fingerprint names the output; ``Compute``, ``Limits``, ``Storage`` and
``Budget`` decide speed and tolerance and never enter it. Precedence: code defaults < preset < job file < command line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, SecretStr, field_validator, model_validator

from pipeline.errors import ConfigError
from pipeline.rendition import RENDITIONS_VERSION, Rendition, check_apart, load_rendition
from pipeline.settings import CONFIGS, Section, build, bundled_file, bundled_names, from_beside, read_yaml, yaml_fault

RECIPE_VERSION = 1
"""Part of every fingerprint; raised when the same settings start to give other pixels."""

CUDA_BATCH_MPX = 4.2
"""Four frames of 1024²: enough work for the smallest maps to fill a GPU, little enough for one of 16 GB."""

CPU_BATCH_MPX = 1.05
"""One frame of 1024²: a CPU is full with it (MVANet looks at five views), and a second one only takes memory."""

MOST_A_PASS = 16
"""However small the frames: the images themselves wait in memory at full size."""


CGM_SHA256 = "d2a410379fb3b8b9aa2b09081b45c7f6fca3c2e0da196df826993e2c40059d88"
"""The bundled weights of the refiner cgm."""


class Recipe(Section):
    """Everything that changes the pixels of a mask or cutout."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,40}$", description="names the output folder, with the fingerprint")
    model: Literal["mvanet", "onnx", "fake"] = Field(description="which code runs the weights")
    weights: str = Field(default="", description="path or URI: local, s3://, hf://owner/repo/file@revision, https://")
    weights_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="what the file must hash to")

    frame_px: int = Field(default=1024, ge=32, le=8192, description="side of the square the model sees")
    frame_resize: Literal["bilinear", "lanczos"] = Field(default="bilinear", description="Pillow filter, image to frame")
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    scale: Literal["255", "max"] = Field(default="255", description="pixels are divided by 255, or by the frame's maximum")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="fp32", description="auto: the fastest that keeps alpha, fixed once for all machines of a run"
    )

    activation: Literal["sigmoid", "none"] = Field(default="sigmoid", description="what turns the raw output into alpha")
    input_name: str | None = Field(default=None, description="ONNX input; the only one when absent")
    output_name: str | None = Field(default=None, description="ONNX output; the first one when absent")

    box_margin: float = Field(default=0.05, ge=0, le=1, description="share of the box's sides added around it")
    margin_without_box: bool = Field(default=False, description="no box means the whole image as a box, margin included")
    outside: Literal["clip", "black"] = Field(default="clip", description="a crop past the image is clipped, or padded black")

    alpha_resize: Literal["antialias", "plain"] = Field(default="antialias", description="bilinear, frame to image")
    stretch: bool = Field(default=False, description="upstream's per-image min-max; an empty photo becomes a full mask")
    refiner: Literal["none", "guided", "cgm", "closed_form", "vitmatte"] = Field(
        default="cgm", description="alpha where the model is unsure, at the image's own size; none: the model's, enlarged"
    )
    refiner_weights: str = Field(default="", description="vitmatte's, or others than the bundled ones of cgm, as the model's")
    refiner_weights_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="what they must hash to")
    refiner_licence: str = Field(default="", description="the terms under which you use them; kept in recipe.json")
    refiner_normalise: Literal["imagenet", "half"] = Field(
        default="imagenet", description="vitmatte's input: as it was trained, or as transformers' processor has it"
    )
    foreground: Literal["multilevel", "blur_fusion", "ben2", "none"] = Field(
        default="multilevel", description="colours of the cutout's edge"
    )
    outputs: tuple[Literal["mask", "cutout", "trimap"], ...] = Field(
        default=("mask", "cutout"), description="objects an item; in the trimap 128 is where the model was unsure"
    )
    renditions: tuple[Rendition, ...] = Field(
        default=(),
        exclude_if=lambda renditions: not renditions,  # recipes without any keep the fingerprint that they always had
        description="pictures made from the cutout, by name; each a bundled one's name or a mapping",
    )
    flip: bool = Field(
        default=False,
        exclude_if=lambda flip: not flip,  # as for renditions
        description="ask the model about the mirrored frame, too: one signal more, in twice the time",
    )
    review_below: float = Field(default=0.85, ge=0, le=1, description="items of lower quality get the status review")

    @model_validator(mode="before")
    @classmethod
    def _bundled_weights_are_pinned(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("refiner", "cgm") == "cgm" and not given.get("refiner_weights"):
            return given | {"refiner_weights_sha256": CGM_SHA256}
        return given

    @field_validator("std")
    @classmethod
    def _std_is_positive(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(std) <= 0:
            raise ValueError("every std must be above 0")
        return std

    @field_validator("outputs")
    @classmethod
    def _outputs_are_a_set(cls, outputs: tuple[str, ...]) -> tuple[str, ...]:
        if not outputs or len(set(outputs)) != len(outputs):
            raise ValueError("name each output once, and at least one")
        return tuple(sorted(outputs))

    @field_validator("renditions", mode="before")
    @classmethod
    def _names_are_looked_up(cls, renditions: Any) -> Any:
        if not isinstance(renditions, list | tuple):
            raise ValueError(f"give a list, as in [amazon-main], not {renditions!r}")  # noqa: TRY004  pydantic reports it
        return [load_rendition(one) if isinstance(one, str) else one for one in renditions]

    @field_validator("renditions")
    @classmethod
    def _renditions_have_names_of_their_own(cls, renditions: tuple[Rendition, ...]) -> tuple[Rendition, ...]:
        check_apart(renditions)
        return tuple(sorted(renditions, key=lambda one: one.name))

    @model_validator(mode="after")
    def _is_coherent(self) -> Recipe:
        if self.model != "fake" and not self.weights:
            raise ValueError("this model needs weights: a path or a URI")
        if self.model == "mvanet" and self.frame_px % 128:
            raise ValueError(f"frame_px must be a multiple of 128 for mvanet, not {self.frame_px}")
        if self.model == "onnx" and self.precision not in {"auto", "fp32"}:
            raise ValueError("an ONNX file carries its own precision; leave recipe.precision at fp32")
        if self.refiner == "vitmatte" and not (self.refiner_weights and self.refiner_licence.strip()):
            raise ValueError(
                "refiner=vitmatte needs refiner_weights, a path or a URI, and refiner_licence, the terms of their use"
            )
        given = [name for name, field in Recipe.model_fields.items() if getattr(self, name) != field.default]
        used = {"cgm": {"refiner_weights", "refiner_weights_sha256"}}.get(self.refiner, set())
        unused = [name for name in given if name.startswith("refiner_") and name not in used]
        if self.refiner != "vitmatte" and unused:
            raise ValueError(f"{unused[0]} isn't for refiner={self.refiner}; leave it out")
        return self

    def fingerprint(self) -> str:
        """64 hex digits over everything that changes pixels: no name, no licence, and weights by hash, not by place.

        Raises:
            ConfigError: the hash of the weights or of a background isn't known yet, or the precision not settled.
        """
        if self.precision == "auto":
            raise ConfigError("recipe.precision is still auto; settle it before taking the recipe's fingerprint")
        if self.model != "fake" and self.weights_sha256 is None:
            raise ConfigError("the recipe has no weights_sha256 yet; fetch the weights before taking its fingerprint")
        if self.refiner_weights and self.refiner_weights_sha256 is None:
            raise ConfigError("the recipe has no refiner_weights_sha256 yet; fetch them before taking its fingerprint")
        facts = self.facts() | {"version": RECIPE_VERSION}
        facts.pop("refiner_licence")
        text = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def facts(self) -> dict[str, Any]:
        """Everything that changes pixels, and the licence of the refiner's weights, as JSON.

        Raises:
            ConfigError: the hash of a background isn't known yet.
        """
        facts = self.model_dump(mode="json", exclude={"name", "weights", "refiner_weights"})
        if not self.renditions:
            return facts
        return facts | {"renditions": [one.facts() for one in self.renditions], "renditions_version": RENDITIONS_VERSION}

    def folder(self) -> str:
        """Name of this recipe's folder in an output: ``<name>-<first 12 digits of the fingerprint>``."""
        return f"{self.name}-{self.fingerprint()[:12]}"


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
    gpus_per_actor: float | None = Field(default=None, ge=0, le=8, description="absent, 1 where there are GPUs, else 0")
    cpus_per_actor: float | None = Field(default=None, ge=0, description="absent, 0 beside a GPU, else 1")
    threads_per_actor: int | None = Field(
        default=None, ge=1, description="CPU threads of one model; absent, the node's cores shared out"
    )
    batch_mpx: float | None = Field(
        default=None, gt=0, description="megapixels of frames a forward pass; absent, 4.2 on a GPU, 1.05 on a CPU"
    )
    batch_size: int | None = Field(
        default=None, ge=1, le=256, description="images a forward pass; absent, as many as batch_mpx allows, up to 16"
    )
    rows_per_block: int | None = Field(default=None, ge=1, description="items a task; absent, from the manifest's length")
    rows_per_part: int | None = Field(default=None, ge=1, description="items an index part; absent, from the manifest's length")
    block_mib: int = Field(default=64, ge=1, le=1024, description="decoded pixels a block")
    fetch_threads: int = Field(default=8, ge=1, le=128, description="objects read or written at once by one task")
    no_progress_s: int = Field(default=1800, ge=5, description="a run that finishes nothing for so long is given up")

    def images_a_pass(self, frame_px: int, device: str) -> int:
        """Images in one forward pass on a device of this type (``cpu`` or ``cuda``), by the size of the frames."""
        if self.batch_size is not None:
            return self.batch_size
        batch_mpx = self.batch_mpx or (CUDA_BATCH_MPX if device == "cuda" else CPU_BATCH_MPX)
        return min(MOST_A_PASS, max(1, int(batch_mpx * 1e6 / frame_px**2)))


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
    """How many items may fail before the run stops."""

    max_failed_share: float = Field(default=0.05, ge=0, le=1)
    judged_after: int = Field(default=64, ge=1)


class Preset(Section):
    """A model as users pick it: the recipe, and what they should know of its weights."""

    about: str
    licence: str
    commercial: bool = Field(description="False: runs only with --accept-licence")
    size_mb: float
    source: str
    recipe: Recipe


class Job(Section):
    """One run, whole."""

    manifest: str
    output: str
    preset: Preset
    compute: Compute = Compute()
    limits: Limits = Limits()
    storage: Storage = Storage()
    budget: Budget = Budget()

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


JOB_SECTIONS = ("recipe", "compute", "limits", "storage", "budget")


def preset_names() -> list[str]:
    """Names of the bundled presets, sorted."""
    return bundled_names(CONFIGS)


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


def load_preset(name_or_path: str, changes: Mapping[str, Any] | None = None, renditions: Sequence[str] = ()) -> Preset:
    """A bundled preset by name, or a user's own by the path of its YAML file, with changes to its recipe.

    Other weights than the preset's own drop the preset's pinned hash: it was the hash of another file.

    Args:
        renditions: names (or paths) of further ones.

    Raises:
        ConfigError: no such preset, an unknown key, a value out of range.
    """
    changes = dict(changes or {})
    path = bundled_file(name_or_path, CONFIGS, "preset")
    content = read_yaml(path)
    recipe = dict(content.get("recipe") or {})
    recipe.setdefault("name", path.stem)
    for key in ("weights", "refiner_weights"):
        if recipe.get(key):
            recipe[key] = from_beside(path, str(recipe[key]))
        if key in changes and f"{key}_sha256" not in changes:
            recipe.pop(f"{key}_sha256", None)
    recipe |= changes
    if renditions:
        recipe["renditions"] = [*(recipe.get("renditions") or ()), *renditions]
    return build(Preset, content | {"recipe": recipe}, str(path.name))


def load_job(
    *,
    manifest: str | None = None,
    output: str | None = None,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    job_file: str | None = None,
    default_preset: str = "u2netp",
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
        "preset": load_preset(preset or content.get("preset") or default_preset, recipe, renditions),
        **sections,
    }
    for needed in ("manifest", "output"):
        if not facts[needed]:
            raise ConfigError(f"no {needed}: give --{needed} a path or a URI")
    return build(Job, facts, job_file or "the command line")
