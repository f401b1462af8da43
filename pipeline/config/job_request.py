"""Define what a request for a job may say: what is to be done and where, and settings that give it no further rights.

Places of files, addresses, credentials, licences, machines and limits are the operator's settings, not the request's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator

from pipeline.config.sections import Section

SAFE_SETTINGS = (
    *("budget.allowed_failed", "budget.deadline_s", "budget.max_failed_share"),
    *("columns.box", "columns.boxes", "columns.id", "columns.image", "columns.label"),
    "output.name",
    *(
        "recipe.box_margin",
        "recipe.detector.label",
        "recipe.hole_share",
        "recipe.holes",
        "recipe.outputs",
        "recipe.review_below",
        "recipe.specks",
    ),
    *("run.changed", "run.replace", "run.retry"),
)
"""Settings of a job that a request may change."""

MAX_ADDRESS, MAX_NAMES = 2048, 32
"""Characters of an address, and renditions of a job, at most."""


class JobRequest(Section):
    """The body of ``POST /v1/jobs``."""

    manifest: str = Field(min_length=1, max_length=MAX_ADDRESS, description="Path or URI of the manifest.")
    output: str = Field(min_length=1, max_length=MAX_ADDRESS, description="Path or URI of the results.")
    preset: str | None = Field(default=None, max_length=64, description="A configured preset. Default: the first.")
    renditions: tuple[str, ...] = Field(default=(), max_length=MAX_NAMES, description="Names of renditions to write as well.")
    settings: Mapping[str, Any] = Field(default_factory=dict, description="Settings of the job, by section.key.")

    @field_validator("settings")
    @classmethod
    def _are_safe(cls, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in settings:
            if name not in SAFE_SETTINGS:
                raise ValueError(f"a request may not set {name[:60]!r}; it may set {', '.join(SAFE_SETTINGS)}")
        return settings
