"""Say in plain words what lowered an item's quality. The command line and the report page use the same sentences."""

from __future__ import annotations

REASONS = {
    "soft_dice": "the model is unsure which parts belong to the object",
    "stability": "it is not clear where the object ends",
    "confidence": "the model is unsure about large parts of the picture",
    "uncertain_share": "a large area is neither clearly object nor clearly background",
    "stray": "traces of the background remain around the object",
    "gaps": "parts of the object are missing or see-through",
    "slope": "the outline is blurred",
    "support": "the outline does not follow an edge that can be seen in the photo",
    "contrast": "object and background have nearly the same colours",
    "area_share": "the object is unusually small or large in the picture",
    "border_touch": "the object reaches the edge of the picture and may be cut off",
    "border_top": "the object reaches the upper edge of the picture",
    "border_bottom": "the object reaches the lower edge of the picture",
    "border_left": "the object reaches the left edge of the picture",
    "border_right": "the object reaches the right edge of the picture",
    "components": "the cutout is in many separate pieces",
    "largest_share": "other pieces were cut out beside the largest one",
    "holes": "there are holes in the object",
    "box_agreement": "the mask disagrees with the box you asked for",
    "box_outside": "a part of the cutout is outside the box you asked for",
    "box_fill": "the cutout fills only a small part of the box you asked for",
    "refined": "the edges needed large corrections",
    "flip_dice": "the mirrored photo gives another cutout",
    "expected_dice": "compared with the photo, the mask looks wrong or incomplete",
    "detector_score": "the detector was not sure that this is the object you named",
    "agreement": "the two models do not agree on what belongs to the object",
    "object_changed": "this may be another object than a moment before",
    "object_missing": "the object you named was not found at this moment",
    "empty": "no object was found, so the cutout is empty",
    "full": "the whole picture was taken for the object, so nothing was cut away",
    "constant": "the model could not tell an object from the background",
}
"""Sentence by signal (``pipeline.schema.SIGNALS``), for the index columns ``detector_score`` and ``agreement``, and for
``object_changed`` and ``object_missing`` of videos: lower case and without a full stop, to stand in a list."""


def explain(reason: str) -> str:
    """Return the sentence of a value of the index column ``reasons``; an unknown value is returned as it is."""
    return REASONS.get(reason, reason)
