"""A training recipe: every setting that changes the trained weights, except the data and the number of processes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.config.sections import Section, Std, build, bundled_file, bundled_names, from_beside, read_yaml
from pipeline.errors import ConfigError
from pipeline.paths import CONFIGS

TRAININGS = CONFIGS / "training"


class Stage(Section):
    """A number of steps with frames of one size."""

    frame_px: int = Field(ge=128, le=2048, multiple_of=128, description="side of the frames")
    batch: int = Field(ge=1, le=1024, description="frames per step, of all processes together")
    steps: int = Field(ge=1)


class Views(Section):
    """Shares of the views that a sample shows of its photo, relative to their sum."""

    whole: float = Field(default=0.4, ge=0, description="the photo, or most of it, as without a box")
    box: float = Field(default=0.3, ge=0, description="a crop to an object's box, as people and detectors draw it")
    pair: float = Field(default=0.15, ge=0, description="a crop around its box, with another photo beside it")
    composite: float = Field(default=0.15, ge=0, description="objects on backgrounds; none without --composites")
    products: float = Field(default=0, ge=0, description="rendered products, with a box or without; none without --composites")


class Losses(Section):
    """Weights of the losses. ``bce`` and ``iou`` are of the final map and of every side output (arXiv 2404.07445)."""

    bce: float = Field(default=1.0, ge=0, description="binary cross-entropy, with more weight at edges")
    iou: float = Field(default=1.0, ge=0, description="soft intersection over union, likewise")
    l1: float = Field(default=1.0, ge=0, description="mean difference of alpha, of the final map")
    slope: float = Field(default=2.0, ge=0, description="mean difference of alpha's gradients, of the final map")
    local: float = Field(default=0.5, ge=0, description="side outputs of the close-ups")
    overview: float = Field(default=0.3, ge=0, description="side outputs of the overview")
    saliency: float = Field(default=0.3, ge=0, description="saliency maps that weight the close-ups")


class TrainRecipe(Section):
    """Every setting that changes the trained weights."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,40}$")
    variant: Literal["mvanet-lite", "mvanet", "ben2"] = Field(description="network")
    dim: int | None = Field(default=None, ge=8, le=512, multiple_of=4, description="decoder width; absent: the variant's")
    start: str = Field(
        default="", description="initial weights: a checkpoint of the variant, or its backbone's; path, URI or bundled:NAME"
    )
    start_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="SHA-256 of start")
    seed: int = Field(default=1, ge=0)

    stages: tuple[Stage, ...] = Field(min_length=1)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: Std = (0.229, 0.224, 0.225)
    precision: Literal["fp32", "bf16"] = "bf16"

    rate: float = Field(default=1e-3, gt=0, le=1, description="AdamW's learning rate, of the decoder")
    backbone_rate: float = Field(
        default=0.2, ge=0, le=10, description="the backbone's learning rate, as a factor of rate; 0 freezes it"
    )
    lora_rank: int = Field(
        default=0,
        ge=0,
        le=256,
        description="above 0: freeze the backbone and train a LoRA update of this rank in its linear layers",
    )
    weight_decay: float = Field(default=0.01, ge=0)
    warm_steps: int = Field(default=100, ge=0, description="steps at the start in which the rate rises")
    decay_steps: int = Field(default=0, ge=0, description="steps at the end in which the rate falls to 0")
    average: float = Field(
        default=0.999,
        ge=0,
        lt=1,
        description="decay of the moving average of the weights, which is written; at most step / (step + 20)",
    )
    clip: float = Field(default=1.0, gt=0, description="maximum norm of the gradient")

    views: Views = Views()
    losses: Losses = Losses()
    colour: float = Field(default=1.0, ge=0, le=2, description="strength of changes of colour and light")
    damage: float = Field(default=0.3, ge=0, le=1, description="share of frames with blur, noise, JPEG artefacts or low light")
    held_out_of: int = Field(default=50, ge=2, description="one item in this many is for validation, chosen by its id")

    @property
    def steps(self) -> int:
        """Steps of all stages together."""
        return sum(stage.steps for stage in self.stages)

    @property
    def steady_steps(self) -> int:
        """Steps before the learning rate decays."""
        return self.steps - self.decay_steps

    @model_validator(mode="after")
    def _is_coherent(self) -> TrainRecipe:
        if self.warm_steps + self.decay_steps > self.steps:
            raise ValueError(f"warm_steps and decay_steps are {self.warm_steps + self.decay_steps} of {self.steps} steps")
        if not sum(self.views.model_dump().values()):
            raise ValueError("views must have a share above 0")
        if self.lora_rank and not self.start:
            raise ValueError("lora_rank needs initial weights; set start")
        return self


FINE_TUNING = "finetune-"
"""Prefix of the recipes that fine-tune a model."""


def load_training(name_or_path: str | None = None, start: str | None = None) -> TrainRecipe:
    """Load a bundled training recipe by name, or a user's own by the path of its YAML file.

    Args:
        name_or_path: None is the recipe that fine-tunes ``start``, and mvanet-lite without one or with a file.
        start: Replaces the recipe's initial weights: a model that can be fine-tuned, such as ``mvanet-lite``, or a path or URI.

    Raises:
        ConfigError: There is no such recipe, a key is unknown, or a value is out of range.
    """
    tuned = {name.removeprefix(FINE_TUNING) for name in bundled_names(TRAININGS) if name.startswith(FINE_TUNING)}
    recipe = _read(name_or_path or f"{FINE_TUNING}{start if start in tuned else 'mvanet-lite'}")
    if start is None:
        return recipe
    if start in tuned:
        other = _read(f"{FINE_TUNING}{start}")
        if other.variant != recipe.variant:
            raise ConfigError(f"--start {start}: the training recipe {recipe.name} is for {recipe.variant}; choose another one")
        own = recipe.model_fields_set
        taken = {name: getattr(other, name) for name in ("mean", "std") if name not in own}  # as the weights expect it
        return recipe.model_copy(update={"start": other.start, "start_sha256": other.start_sha256, **taken})
    if "/" not in start and "." not in start:
        raise ConfigError(f"--start {start}: choose from {', '.join(sorted(tuned))}, or give the path of a weights file")
    return recipe.model_copy(update={"start": start, "start_sha256": None})


def _read(name_or_path: str) -> TrainRecipe:
    path = bundled_file(name_or_path, TRAININGS, "training")
    content = read_yaml(path)
    content.setdefault("name", path.stem)
    if isinstance(content.get("start"), str) and content["start"]:
        content["start"] = from_beside(path, content["start"])
    return build(TrainRecipe, content, path.name)
