"""The two tables of a run as Arrow schemas: items (what is to be done) and index (what was done).

Every column says what it is in its field metadata, which travels into the Parquet files. A manifest's further columns
follow the columns here, under their own name, or ``manifest_<name>`` where that name is taken.
"""

from __future__ import annotations

import pyarrow as pa

INDEX_VERSION = "1"
"""Written into the Parquet metadata as ``matteline.index``; raised when a column changes its meaning."""


def _field(name: str, kind: pa.DataType, about: str, *, nullable: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"about": about})


SIGNALS = pa.struct(
    [
        _field("soft_dice", pa.float32(), "2·Σ(p·y) / (Σp + Σy) with y = p > 0.5; [0, 1], 1 = sure (arXiv 2402.10665)"),
        _field(
            "stability",
            pa.float32(),
            "area(logit > 1) / area(logit > -1); [0, 1], 1 = the contour stands still (segment-anything)",
        ),
        _field("confidence", pa.float32(), "mean of max(p, 1 - p); [0.5, 1]"),
        _field("uncertain_share", pa.float32(), "share of the frame with 0.04 < p < 0.96; [0, 1]"),
        _field("stray", pa.float32(), "Σp outside and away from the contour ÷ area of p > 0.5; from 0 up, 0 = no haze"),
        _field("gaps", pa.float32(), "Σ(1 - p) inside and away from the contour ÷ area of p > 0.5; [0, 1], 0 = no doubt there"),
        _field("slope", pa.float32(), "mean |∇p| along the contour, on a map of about 80 pixels; from 0 up, 1 = a step"),
        _field("support", pa.float32(), "the photo's mean gradient along the contour ÷ its mean; from 0 up, 1 = as anywhere"),
        _field("contrast", pa.float32(), "distance of the mean colours just outside and inside the contour; [0, √3]"),
        _field("area_share", pa.float32(), "share of the frame with p > 0.5; [0, 1]"),
        _field("border_touch", pa.float32(), "share of the frame's outermost pixels with p > 0.5; [0, 1]"),
        *(
            _field(f"border_{side}", pa.float32(), f"share of the frame's {side} line with p > 0.5; [0, 1]")
            for side in ("top", "bottom", "left", "right")
        ),
        _field("components", pa.float32(), "connected parts of p > 0.5 larger than 0.2 % of the frame; count"),
        _field("largest_share", pa.float32(), "the largest part's share of all parts' area; [0, 1], 0 without any"),
        _field("holes", pa.float32(), "enclosed parts of p ≤ 0.5 larger than 0.05 % of the frame; count"),
        _field(
            "box_agreement", pa.float32(), "IoU of the prompt's box and the bounding box of p > 0.5; [0, 1], null without a box"
        ),
        _field("box_outside", pa.float32(), "share of p > 0.5 that lies outside the box; [0, 1], null without a box"),
        _field("box_fill", pa.float32(), "share of the box with p > 0.5; [0, 1], null without a box"),
        _field(
            "refined", pa.float32(), "mean |change| of alpha in the band by the refiner; [0, 1], null where nothing is drawn"
        ),
        _field("flip_dice", pa.float32(), "Dice of p > 0.5 and that of the mirrored frame; [0, 1], null without recipe.flip"),
        _field(
            "expected_dice",
            pa.float32(),
            "what a small network makes of photo and mask: the mean of the Dice that it expects and of how probable 0.9 and "
            "0.95 are; [0, 1], null without recipe.estimate",
        ),
        _field("empty", pa.bool_(), "no pixel has p > 0.5"),
        _field("full", pa.bool_(), "every pixel has p > 0.5"),
        _field("constant", pa.bool_(), "p spans less than 0.001: the model said nothing"),
    ]
)

RENDITION = pa.struct(
    [
        _field("name", pa.string(), "of the rendition, with -<size> where it has several sizes"),
        _field("uri", pa.string(), "an absolute path or a URI; null: not made, and the note says why"),
        _field("bytes", pa.int64(), "size of the object"),
        _field("sha256", pa.string(), "of the object"),
        _field("height", pa.int32(), "of the rendition, in pixels"),
        _field("width", pa.int32(), "of the rendition, in pixels"),
        _field("note", pa.string(), "what to know of it, such as that it had to be enlarged; null: nothing"),
    ]
)

SECONDS = pa.struct(
    [
        _field("fetch", pa.float32(), "reading the image's bytes"),
        _field("decode", pa.float32(), "bytes to upright RGB"),
        _field("segment", pa.float32(), "this item's share of its batch in the model"),
        _field("finish", pa.float32(), "colours, renditions, encoding"),
        _field("write", pa.float32(), "publishing the objects"),
    ]
)

ITEM = pa.schema(
    [
        _field("item_id", pa.string(), "identity of the item, unique in the manifest", nullable=False),
        _field("image_uri", pa.string(), "where the image was read: an absolute path or a URI"),
        _field("box", pa.list_(pa.float64()), "x0, y0, x1, y1 in pixels of the upright image, end-exclusive; null = no box"),
        _field("error_code", pa.string(), "item, fetch, decode, segment, refine or write; null unless failed"),
        _field("error_detail", pa.string(), "one sentence: what is wrong and how to mend it"),
    ]
)
"""A manifest's row once it is read; ``error_code`` is set where the row itself can't be used."""

INDEX = pa.schema(
    [
        ITEM.field("item_id"),
        _field("status", pa.string(), "ok, review (all objects exist, look at them) or failed (no objects)", nullable=False),
        ITEM.field("error_code"),
        ITEM.field("error_detail"),
        ITEM.field("image_uri"),
        _field("image_sha256", pa.string(), "of the image's bytes as read"),
        _field("image_bytes", pa.int64(), "size of the image as read"),
        _field("image_version", pa.string(), "of the image as read: its ETag, or its size and time; null where unknown"),
        _field("height", pa.int32(), "of the upright image and of mask and cutout, in pixels"),
        _field("width", pa.int32(), "of the upright image and of mask and cutout, in pixels"),
        ITEM.field("box"),
        _field("mask_uri", pa.string(), "8-bit alpha PNG: an absolute path or a URI"),
        _field("mask_bytes", pa.int64(), "size of the mask object"),
        _field("mask_sha256", pa.string(), "of the mask object"),
        _field("cutout_uri", pa.string(), "straight RGBA PNG: an absolute path or a URI"),
        _field("cutout_bytes", pa.int64(), "size of the cutout object"),
        _field("cutout_sha256", pa.string(), "of the cutout object"),
        _field("trimap_uri", pa.string(), "8-bit PNG, 0 background, 255 object, 128 unsure: an absolute path or a URI"),
        _field("trimap_bytes", pa.int64(), "size of the trimap object"),
        _field("trimap_sha256", pa.string(), "of the trimap object"),
        _field("renditions", pa.list_(RENDITION), "one entry a file that the recipe's renditions ask for; null without any"),
        _field("quality", pa.float32(), "[0, 1], higher is better; null for failed items"),
        _field("quality_calibrated", pa.bool_(), "true: quality is the probability that Dice is at least 0.95"),
        _field("reasons", pa.list_(pa.string()), "what pulled the quality down, worst first"),
        _field("signals", SIGNALS, "what the quality was made from, measured on the model's frame"),
        _field("model", pa.string(), "name of the recipe"),
        _field("weights_sha256", pa.string(), "of the weights file"),
        _field("recipe", pa.string(), "fingerprint of the recipe"),
        _field("run_id", pa.string(), "the run that made this row"),
        _field("worker", pa.string(), "host and process that finished the item"),
        _field("seconds", SECONDS, "time of each stage for this item, in seconds"),
        _field("finished_at", pa.timestamp("ms", tz="UTC"), "when the row was made"),
    ],
    metadata={"matteline.index": INDEX_VERSION},
)
"""One row an item, always."""


TRAVELLING = ("pixels", "mask", "fetch_s", "decode_s", "segment_s")
"""Columns between the stages that don't reach the index."""


def carried_name(name: str) -> str:
    """The name under which a manifest's further column travels: its own, unless that is taken here."""
    return f"manifest_{name}" if name in INDEX.names or name in TRAVELLING else name


def index_schema(carried: pa.Schema) -> pa.Schema:
    """The index's schema with a manifest's carried columns (already under their travelling names) at the end."""
    return pa.schema([*INDEX, *carried], metadata=INDEX.metadata)
