"""Arrow schemas of the two tables of a run: items (from the manifest) and index (the results).

Each column has a description in its field metadata (``about``), which the Parquet files contain. A manifest's further columns
follow these columns, under their own name, or as ``manifest_<name>`` if that name is taken.
"""

from __future__ import annotations

import pyarrow as pa

STATUSES = ("ok", "review", "failed")
"""Values of the index column ``status``."""

MAX_DETAIL = 1000
"""Characters of ``error_detail``, at most. A message may name two long paths before its advice."""

INDEX_VERSION = "2"
"""Stored in the Parquet metadata as ``matteline.index``. Raised when a column changes its meaning."""


def _field(name: str, kind: pa.DataType, about: str, *, nullable: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"about": about})


def _object_fields(name: str, kind: str) -> list[pa.Field]:
    return [
        _field(f"{name}_path", pa.string(), f"{kind}: path below the output"),
        _field(f"{name}_bytes", pa.int64(), f"size of the {name}'s file"),
        _field(f"{name}_sha256", pa.string(), f"SHA-256 of the {name}'s file"),
    ]


SIGNALS = pa.struct(
    [
        _field("soft_dice", pa.float32(), "2·Σ(p·y) / (Σp + Σy) with y = p > 0.5; [0, 1], 1 = certain (arXiv 2402.10665)"),
        _field("stability", pa.float32(), "area(logit > 1) / area(logit > -1); [0, 1], 1 = stable contour (segment-anything)"),
        _field("confidence", pa.float32(), "mean of max(p, 1 - p); [0.5, 1]"),
        _field("uncertain_share", pa.float32(), "share of the frame with 0.04 < p < 0.96; [0, 1]"),
        _field("stray", pa.float32(), "Σp outside and away from the contour ÷ area of p > 0.5; ≥ 0, 0 = no haze"),
        _field("gaps", pa.float32(), "Σ(1 - p) inside and away from the contour ÷ area of p > 0.5; [0, 1], 0 = no holes"),
        _field("slope", pa.float32(), "mean |∇p| along the contour, on a map of about 80 pixels; ≥ 0, 1 = a step"),
        _field("support", pa.float32(), "the photo's mean gradient along the contour ÷ its overall mean; ≥ 0"),
        _field("contrast", pa.float32(), "distance of the mean colours just outside and inside the contour; [0, √3]"),
        _field("area_share", pa.float32(), "share of the frame with p > 0.5; [0, 1]"),
        _field("border_touch", pa.float32(), "share of the frame's outermost pixels with p > 0.5; [0, 1]"),
        *(
            _field(f"border_{side}", pa.float32(), "share of the frame's outermost line on that side with p > 0.5; [0, 1]")
            for side in ("top", "bottom", "left", "right")
        ),
        _field("components", pa.float32(), "number of connected parts of p > 0.5 larger than 0.2 % of the frame"),
        _field("largest_share", pa.float32(), "share of the largest part in the area of all parts; [0, 1], 0 without parts"),
        _field("holes", pa.float32(), "number of enclosed parts of p ≤ 0.5 larger than 0.05 % of the frame"),
        _field("box_agreement", pa.float32(), "IoU of the box and the bounding box of p > 0.5; [0, 1], null without a box"),
        _field("box_outside", pa.float32(), "share of p > 0.5 that is outside the box; [0, 1], null without a box"),
        _field("box_fill", pa.float32(), "share of the box with p > 0.5; [0, 1], null without a box"),
        _field(
            "refined",
            pa.float32(),
            "mean |change| of alpha by the refiner in the unknown region; [0, 1], null if nothing was refined",
        ),
        _field("flip_dice", pa.float32(), "Dice of the masks of frame and mirrored frame; [0, 1], null without the view flip"),
        _field(
            "expected_dice",
            pa.float32(),
            "prediction of a small network from photo and mask: mean of the expected Dice, P(Dice ≥ 0.9) and P(Dice ≥ 0.95); "
            "[0, 1], null without recipe.estimate",
        ),
        _field("empty", pa.bool_(), "no pixel has p > 0.5"),
        _field("full", pa.bool_(), "every pixel has p > 0.5"),
        _field("constant", pa.bool_(), "p spans less than 0.001, so the model found nothing"),
    ]
)

RENDITION = pa.struct(
    [
        _field("name", pa.string(), "name of the rendition, followed by - and the size if it has several sizes"),
        _field("path", pa.string(), "path below the output; null if the file was not written (see note)"),
        _field("recipe", pa.string(), "fingerprint of the rendition's settings"),
        _field("bytes", pa.int64(), "size of the file"),
        _field("sha256", pa.string(), "SHA-256 of the file"),
        _field("height", pa.int32(), "size in pixels"),
        _field("width", pa.int32(), "size in pixels"),
        _field("note", pa.string(), "a remark, such as that the object was enlarged; else null"),
    ]
)

MODEL = pa.struct(
    [
        _field("model", pa.string(), "name of the model's recipe"),
        _field("weights_sha256", pa.string(), "SHA-256 of its weights file"),
        _field("quality", pa.float32(), "quality of its own mask"),
        _field("reasons", pa.list_(pa.string()), "the signals that lowered that quality most"),
        _field("used", pa.bool_(), "true if its mask is the item's, or part of it"),
    ]
)

VIDEO_FILE = pa.struct(
    [
        _field("name", pa.string(), "webm, mov, mp4, png or mask, as in recipe.videos"),
        _field("path", pa.string(), "path below the output"),
        _field("bytes", pa.int64(), "size of the file"),
        _field("sha256", pa.string(), "SHA-256 of the file"),
        _field("height", pa.int32(), "size in pixels"),
        _field("width", pa.int32(), "size in pixels"),
        _field("codec", pa.string(), "FFmpeg's name of the encoder"),
    ]
)

VIDEO = pa.struct(
    [
        _field("frames", pa.int32(), "number of frames, which all files have"),
        _field("seconds", pa.float64(), "duration: from the first frame to the end of the last"),
        _field("codec", pa.string(), "FFmpeg's name of the source's video codec"),
        _field("sound", pa.list_(pa.string()), "FFmpeg's names of the codecs of the source's sound tracks"),
        _field("flicker", pa.float32(), "mean |alpha - alpha of the frame before, carried by motion|; [0, 1], 0 = steady"),
        _field(
            "worst",
            pa.list_(pa.struct([("at_s", pa.float32()), ("quality", pa.float32())])),
            "moments of lowest quality, at most five, worst first",
        ),
        _field("notes", pa.list_(pa.string()), "what differs from the source, a sentence each"),
        _field(
            "files",
            pa.list_(VIDEO_FILE),
            "one entry per file",
        ),
    ]
)

SEGMENTS = pa.schema(
    [
        _field("item_id", pa.string(), "id of the video's item", nullable=False),
        _field("number", pa.int32(), "number of the segment, from 0"),
        _field("start_s", pa.float64(), "time of its first frame, from the first one of the video"),
        _field("frames", pa.int32(), "number of its frames"),
        _field("quality", pa.float32(), "5 % of its frames are below it"),
        _field("worst_at_s", pa.float64(), "time of its frame of lowest quality"),
        _field("flicker", pa.float32(), "as in video_facts"),
        _field("reasons", pa.list_(pa.string()), "as in the index"),
        _field("run_id", pa.string(), "the run that wrote this row"),
    ]
)
"""The table of segments: rows of videos that have more than one."""

SECONDS = pa.struct(
    [
        _field("fetch", pa.float32(), "reading the image's bytes"),
        _field("decode", pa.float32(), "decoding to upright RGB"),
        _field("segment", pa.float32(), "the item's share of its batch in the model"),
        _field("finish", pa.float32(), "foreground colours, renditions, encoding"),
        _field("write", pa.float32(), "writing the objects"),
    ]
)

ITEM = pa.schema(
    [
        _field("item_id", pa.string(), "id of the item, unique in the manifest", nullable=False),
        _field("output_name", pa.string(), "path of its files below masks/, cutouts/ …, without a suffix", nullable=False),
        _field("image_uri", pa.string(), "the image: an absolute path or a URI"),
        _field("box", pa.list_(pa.float64()), "x0, y0, x1, y1 in pixels of the upright image, end-exclusive; null = no box"),
        _field("error_code", pa.string(), "item, fetch, decode, prompt, segment, refine, write or crash; null unless failed"),
        _field("error_detail", pa.string(), "one sentence: what is wrong and how to fix it"),
    ]
)
"""A row of the manifest. ``error_code`` is set if the row itself is invalid."""

INDEX = pa.schema(
    [
        ITEM.field("item_id"),
        ITEM.field("output_name"),
        _field("status", pa.string(), "ok, review (low quality, check it) or failed (no objects)", nullable=False),
        ITEM.field("error_code"),
        ITEM.field("error_detail"),
        ITEM.field("image_uri"),
        _field("image_sha256", pa.string(), "SHA-256 of the image's bytes"),
        _field("image_bytes", pa.int64(), "size of the image's file"),
        _field("image_version", pa.string(), "the image's ETag, or its size and time; null if unknown"),
        _field("height", pa.int32(), "size of the upright image, mask and cutout, in pixels"),
        _field("width", pa.int32(), "size of the upright image, mask and cutout, in pixels"),
        ITEM.field("box"),
        _field(
            "prompt",
            pa.list_(pa.string()),
            "names that a detector looked for; null without recipe.detector, label or with a box",
        ),
        _field("detected_box", pa.list_(pa.float64()), "the box that it found and that was used, as box; null without prompt"),
        _field("detected_label", pa.string(), "the one of the names that the box belongs to most likely"),
        _field("detector_score", pa.float32(), "score of the box; [0, 1], comparable within one detector only"),
        *_object_fields("mask", "8-bit alpha PNG"),
        *_object_fields("cutout", "RGBA PNG with straight alpha"),
        *_object_fields("trimap", "8-bit PNG, 0 background, 255 object, 128 unknown"),
        _field("renditions", pa.list_(RENDITION), "one entry per file of the recipe's renditions; null without renditions"),
        _field("video_facts", VIDEO, "of a video: its frames and its files; null for pictures"),
        _field(
            "quality",
            pa.float32(),
            "score in [0, 1], higher is better; null for failed items. Of a video, 5 % of the frames are below it",
        ),
        _field("quality_calibrated", pa.bool_(), "true if quality is the probability that Dice is at least 0.95"),
        _field("reasons", pa.list_(pa.string()), "the signals that lowered the quality most, at most two, worst first"),
        _field("signals", SIGNALS, "measurements on the model's frame from which the quality is computed"),
        _field(
            "models",
            pa.list_(MODEL),
            "what each model thought that saw the item, the first model first; null for failed items and without recipe.second",
        ),
        _field("agreement", pa.float32(), "Dice of the masks of two models; [0, 1], null if one model saw the item"),
        _field("model", pa.string(), "name of the recipe"),
        _field("weights_sha256", pa.string(), "SHA-256 of the weights file"),
        _field("recipe", pa.string(), "fingerprint of the recipe"),
        _field("run_id", pa.string(), "the run that wrote this row"),
        _field("worker", pa.string(), "host and process that finished the item"),
        _field("seconds", SECONDS, "time of each stage for this item, in seconds"),
        _field("finished_at", pa.timestamp("ms", tz="UTC"), "time at which the row was written"),
    ],
    metadata={"matteline.index": INDEX_VERSION},
)
"""The index: one row per item."""


TRAVELLING = ("pixels", "mask", "fetch_s", "decode_s", "segment_s", "video_progress", "video_stretch")
"""Columns between the stages that do not reach the index."""


_TAKEN = frozenset(name.lower() for name in (*INDEX.names, *TRAVELLING))


def carried_name(name: str) -> str:
    """Return the name under which a manifest's further column is carried: its own, unless that is taken.

    Case is ignored, as in SQL: next to ``status``, DuckDB could not read a column ``Status``.
    """
    return f"manifest_{name}" if name.lower() in _TAKEN else name


def index_schema(carried: pa.Schema) -> pa.Schema:
    """Return the index's schema, followed by the columns copied from a manifest, named as in the index (``carried_name``)."""
    return pa.schema([*INDEX, *carried], metadata=INDEX.metadata)
