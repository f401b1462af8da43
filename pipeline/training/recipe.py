"""A training's recipe: every setting that changes the weights that come out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from pipeline.config.sections import Section, Std, build, bundled_file, from_beside, read_yaml
from pipeline.errors import ConfigError
from pipeline.paths import CONFIGS

TRAININGS = CONFIGS / "training"


class Stage(Section):
    """Some steps at one size of frames."""

    frame_px: int = Field(ge=128, le=2048, multiple_of=128, description="side of the frames")
    batch: int = Field(ge=1, le=1024, description="frames a step, of all processes together")
    steps: int = Field(ge=1)


class Views(Section):
    """How often a sample is which view of its photo; shares of their sum."""

    whole: float = Field(default=0.4, ge=0, description="all of it, or most, as without a box")
    box: float = Field(default=0.3, ge=0, description="around an object's box, off centre")
    pair: float = Field(default=0.15, ge=0, description="around its box, beside another photo")
    composite: float = Field(default=0.15, ge=0, description="objects on backgrounds; none without --composites")


class Losses(Section):
    """Weights in the sum. The first two of the final map and of the side outputs, as in arXiv 2404.07445."""

    bce: float = Field(default=1.0, ge=0, description="binary cross-entropy, more of it at edges")
    iou: float = Field(default=1.0, ge=0, description="soft intersection over union, likewise")
    l1: float = Field(default=1.0, ge=0, description="mean difference of alpha, of the final map")
    slope: float = Field(default=2.0, ge=0, description="mean difference of alpha's slopes, of the final map")
    local: float = Field(default=0.5, ge=0, description="of the close-ups' side outputs")
    overview: float = Field(default=0.3, ge=0, description="of the overview's side outputs")
    saliency: float = Field(default=0.3, ge=0, description="of what dims the close-ups")


class TrainRecipe(Section):
    """Everything that decides the weights, but for the data and the number of processes."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,40}$")
    variant: Literal["mvanet-lite", "mvanet", "ben2"] = Field(description="which network")
    dim: int | None = Field(default=None, ge=8, le=512, multiple_of=4, description="of the decoder; absent, the variant's")
    start: str = Field(default="", description="weights to begin with: a published MVANet, or a backbone's; path or URI")
    start_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="what they must hash to")
    seed: int = Field(default=1, ge=0)

    stages: tuple[Stage, ...] = Field(min_length=1)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: Std = (0.229, 0.224, 0.225)
    precision: Literal["fp32", "bf16"] = "bf16"

    rate: float = Field(default=1e-3, gt=0, le=1, description="AdamW's learning rate, of the decoder")
    backbone_rate: float = Field(default=0.2, ge=0, le=10, description="the backbone's, as a share of it; 0 freezes it")
    lora_rank: int = Field(
        default=0, ge=0, le=256, description="above 0, the backbone is frozen and its linear layers learn a change of this rank"
    )
    weight_decay: float = Field(default=0.01, ge=0)
    warm_steps: int = Field(default=100, ge=0)
    decay_steps: int = Field(default=0, ge=0, description="at the end the rate goes down to nothing; before, it is constant")
    average: float = Field(default=0.999, ge=0, lt=1, description="the weights that come out are a moving average")
    clip: float = Field(default=1.0, gt=0, description="longest gradient")

    views: Views = Views()
    losses: Losses = Losses()
    colour: float = Field(default=1.0, ge=0, le=2, description="how strong colours and light are changed")
    damage: float = Field(default=0.3, ge=0, le=1, description="share of frames with blur, noise, JPEG or low light")
    held_out_of: int = Field(default=50, ge=2, description="one item in so many is for validation, by its id alone")

    @property
    def steps(self) -> int:
        """All stages together."""
        return sum(stage.steps for stage in self.stages)

    @property
    def steady_steps(self) -> int:
        """Before the rate goes down."""
        return self.steps - self.decay_steps

    @model_validator(mode="after")
    def _is_coherent(self) -> TrainRecipe:
        if self.warm_steps + self.decay_steps > self.steps:
            raise ValueError(f"warm_steps and decay_steps are {self.warm_steps + self.decay_steps} of {self.steps} steps")
        if not sum(self.views.model_dump().values()):
            raise ValueError("views must have a share above 0")
        if self.lora_rank and not self.start:
            raise ValueError("lora_rank changes weights that there are; set start")
        return self


def load_training(name_or_path: str) -> TrainRecipe:
    """A bundled training by name, or a user's own by the path of its YAML file.

    Raises:
        ConfigError: no such recipe, an unknown key, a value out of range.
    """
    path = bundled_file(name_or_path, TRAININGS, "training")
    content = read_yaml(path)
    content.setdefault("name", path.stem)
    if isinstance(content.get("start"), str) and content["start"]:
        content["start"] = from_beside(path, content["start"])
    return build(TrainRecipe, content, path.name)


def read_training(text: str, where: Path | str) -> TrainRecipe:
    """A recipe as a checkpoint keeps it, JSON.

    Raises:
        ConfigError: of another version of this package.
    """
    try:
        return TrainRecipe.model_validate_json(text)
    except ValueError as error:
        raise ConfigError(f"{where} was made by another version of this package; train anew, or warm start from it") from error
