"""Encode a mask as the answer of a request."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.responses import Response

from pipeline.config.recipe import Recipe
from pipeline.errors import WriteError
from pipeline.imaging.png import encode_mask
from pipeline.imaging.renditions.plain import encode_plain
from pipeline.imaging.renditions.render import Rendered, render
from pipeline.imaging.trimap import trimap_of
from pipeline.models.cascade import as_rows
from pipeline.models.detectors.detector import Detection
from pipeline.quality.reasons import explain
from pipeline.segmenter import Cutout
from pipeline.serve.asked import Asked
from pipeline.serve.refusals import RequestRefused
from pipeline.types import Box

TYPES = {
    **{"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg", "jpg": "image/jpeg", "tiff": "image/tiff"},
    "json": "application/json",
}
"""Content type by format, or by suffix of a rendition."""

EXPOSED = (
    *("X-Quality", "X-Quality-Calibrated", "X-Status", "X-Reasons", "X-Recipe", "X-Box", "X-Box-Score", "X-Note"),
    *("X-Error-Code", "X-Request-Id", "Server-Timing", "Retry-After", "Location"),
)
"""Headers that pages of other origins may read."""


def label(recipe: Recipe) -> str:
    """Return name and fingerprint of a recipe, as in run records: ``mvanet-lite-bf428fe462b9``."""
    return f"{recipe.name}-{recipe.fingerprint()[:12]}"


def status_of(result: Cutout) -> str:
    """Return ``ok``, or ``review`` for a quality below ``recipe.review_below``."""
    assert result.recipe.review_below is not None, "a resolved recipe has a threshold"
    return "ok" if result.quality >= result.recipe.review_below else "review"


def encode_answer(result: Cutout, asked: Asked, backgrounds: Mapping[str, bytes]) -> Response:
    """Return the answer, with quality, reasons and recipe in its headers.

    Args:
        result: The mask.
        asked: What to answer.
        backgrounds: Background pictures of renditions, by SHA-256.

    Raises:
        RequestRefused: 422: the mask shows no object for a rendition, or the picture is too large for its format.
    """
    headers = {
        "X-Quality": f"{result.quality:.4f}",
        "X-Quality-Calibrated": str(result.score.calibrated).lower(),
        "X-Status": status_of(result),
        "X-Reasons": ",".join(result.reasons),
        "X-Recipe": label(result.recipe),
    }
    if result.detection is not None:
        headers |= {"X-Box": _corners(result.detection.box), "X-Box-Score": f"{result.detection.score:.4f}"}
    if asked.output == "mask":
        return Response(encode_mask(result.mask), headers=headers, media_type=TYPES["png"])
    if asked.output == "trimap":
        return Response(encode_mask(trimap_of(result.mask)), headers=headers, media_type=TYPES["png"])
    made = render(asked.renditions, result.cutout[..., :3], result.mask, backgrounds, result.picture)
    if asked.output == "json":
        content = json.dumps(_document(result, _plain(result, asked), TYPES[asked.form], made), allow_nan=False)
        return Response(content, headers=headers, media_type="application/json")
    if not asked.renditions:
        return Response(_plain(result, asked), headers=headers, media_type=TYPES[asked.form])
    (one,) = made
    if one.data is None:
        raise RequestRefused(422, "rendition", f"the rendition {one.name} was {one.note}")
    if one.note:
        headers["X-Note"] = one.note
    return Response(one.data, headers=headers, media_type=TYPES[one.suffix])


def _corners(box: Box) -> str:
    """Return a box as requests give it."""
    return ",".join(f"{edge:.1f}" for edge in (box.x0, box.y0, box.x1, box.y1))


def _found(detection: Detection | None) -> dict[str, Any] | None:
    if detection is None:
        return None
    box = detection.box
    return {"label": detection.label, "score": round(detection.score, 4), "box": [box.x0, box.y0, box.x1, box.y1]}


def _plain(result: Cutout, asked: Asked) -> bytes:
    """Return the cutout in its format."""
    try:
        return encode_plain(result.cutout[..., :3], result.mask, asked.form, asked.background)
    except WriteError as error:  # the client can mend it, unlike a full disk
        raise RequestRefused(422, error.code, str(error)) from None


def _rendition(made: Rendered) -> dict[str, Any]:
    """Return a rendition for JSON; without bytes, its note says why."""
    data = None if made.data is None else base64.b64encode(made.data).decode()
    return {"name": made.name, "type": TYPES[made.suffix], "base64": data, "note": made.note}


def _document(result: Cutout, data: bytes, kind: str, renditions: Iterable[Rendered]) -> dict[str, Any]:
    height, width = result.mask.shape
    return {
        "width": width,
        "height": height,
        "status": status_of(result),
        "quality": round(result.quality, 4),
        "calibrated": result.score.calibrated,
        "reasons": [{"name": reason, "text": explain(reason)} for reason in result.reasons],
        "signals": result.signals,
        "recipe": label(result.recipe),
        "found": _found(result.detection),
        "models": as_rows(result.looks),
        "agreement": None if result.agreement is None else round(result.agreement, 4),
        "image": {"type": kind, "base64": base64.b64encode(data).decode()},
        "mask": {"type": TYPES["png"], "base64": base64.b64encode(encode_mask(result.mask)).decode()},
        "renditions": [_rendition(made) for made in renditions],
    }
