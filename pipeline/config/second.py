"""Define the settings of a second model, which sees the items that the first one is unsure about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipeline.config.sections import Section

if TYPE_CHECKING:
    from pipeline.config.recipe import Recipe

Join = Literal["replace", "mean", "better"]
"""Ways to make one result from those of two models; see ``models.cascade.join_segments``."""


class Second(Section):
    """A second model, and the items that it sees."""

    preset: str = Field(min_length=1, description="Name of a bundled preset, or a .yaml file: the second model.")
    below: float = Field(
        default=0.2, ge=0, le=1, description="Items whose quality after the first model is lower go to the second model."
    )
    join: Join | None = Field(
        default=None,
        description="Result: the second's, that of higher quality, or the mean. Default: better, or replace if uncalibrated.",
    )
    recipe: Recipe = Field(
        description="Its recipe, of which masks and scores are used. Default: the preset's; keys given here change it."
    )

    @property
    def joined_by(self) -> Join:
        """The way to make one result of two: ``join``, or the default for calibrated or uncalibrated qualities."""
        return self.join or ("better" if self.recipe.calibration else "replace")

    def facts(self) -> dict[str, Any]:
        """Return everything that changes masks and scores, as JSON."""
        own = self.recipe.facts()
        return {"below": self.below, "join": self.joined_by, "recipe": {key: own[key] for key in own if key not in NOT_TAKEN}}

    def problem(self, first: Recipe) -> str | None:
        """Return why this model cannot be the second one after ``first``, with the fix; None if it can."""
        if self.recipe.second is not None:
            return f"{self.preset} has a second model itself; there can be two models only, so choose another preset"
        if self.recipe.detector is not None:
            return f"{self.preset} has a detector; objects are found once, so set it as recipe.detector of the first model"
        if first.every > 1:
            return "a second model is for pictures; remove recipe.every, which is for videos"
        if bool(first.calibration) != bool(self.recipe.calibration):
            with_one, without = (first.name, self.preset) if first.calibration else (self.preset, first.name)
            return (
                f"the quality of {with_one} is calibrated and that of {without} is not, so they cannot be compared; set "
                f"a calibration for {without} (matteline calibrate), or none for {with_one}"
            )
        if self.join == "better" and not first.calibration:
            return "join=better compares qualities of two models, so both need a calibration (matteline calibrate)"
        return None


NOT_TAKEN = frozenset({"foreground", "every", "steady"})
"""Settings of the second model's recipe that enter ``Recipe.facts`` and are the first one's here."""
