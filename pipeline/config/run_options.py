"""Define which items of an output a run processes again, and which licences it may use."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from pipeline.config.sections import Section
from pipeline.errors import ITEM_ERRORS

CODES = tuple(sorted(error.code for error in ITEM_ERRORS))
"""Every error code of an item."""


class RunOptions(Section):
    """Options of ``matteline run`` that a job file may hold. ``--retry`` of the command line replaces ``retry``."""

    retry: tuple[str, ...] = Field(
        default=(), description="Retry failed items with these error codes, as `--retry`: a list, `fetch,write`, or `all`."
    )
    changed: bool = Field(
        default=False, description="Reprocess items whose image, URI, box or label has changed, as `--changed`."
    )
    replace: bool = Field(default=False, description="Reprocess items made with another recipe, as `--replace`.")
    accept_licence: bool = Field(
        default=False, description="Allow weights whose licence restricts commercial use, as `--accept-licence`."
    )

    @field_validator("retry", mode="before")
    @classmethod
    def _are_error_codes(cls, retry: Any) -> Any:
        codes = [code.strip() for code in retry.split(",") if code.strip()] if isinstance(retry, str) else retry
        if not isinstance(codes, list | tuple) or not all(isinstance(code, str) for code in codes):
            raise ValueError("must be error codes such as fetch,write, or all")
        if list(codes) == ["all"]:
            return CODES
        if unknown := set(codes) - set(CODES):
            raise ValueError(f"{min(unknown)!r} is not an error code; choose from {', '.join(CODES)}, or all")
        return tuple(sorted(set(codes)))
