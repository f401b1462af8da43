"""The table of an evaluation: one row an item of the manifest, always."""

from __future__ import annotations

import pyarrow as pa

from pipeline.quality.metrics import CURVES, METRICS, THRESHOLDS
from pipeline.schema import INDEX


def _field(name: str, kind: pa.DataType, about: str) -> pa.Field:
    return pa.field(name, kind, metadata={"about": about})


FACTS = ("item_id", "status", "error_code", "error_detail", "image_uri", "height", "width", "mask_uri", "quality", "signals")
"""Columns of the index that are here too."""

EVALUATION = pa.schema(
    [
        *(INDEX.field(name) for name in FACTS if not name.startswith("error")),
        _field("error_code", pa.string(), "why there are no metrics: the index's code, or truth or mask; null: there are"),
        _field("error_detail", pa.string(), "one sentence: what is wrong and how to mend it"),
        _field("truth_uri", pa.string(), "where the true mask was read: an absolute path or a URI"),
        _field(
            "group", pa.string(), "the manifest's: items that share it, as the copies of a photo, are drawn as one; or the id"
        ),
        _field("tags", pa.list_(pa.string()), "the manifest's, and those that the truth gives: border, thin"),
        *(_field(metric.name, pa.float64(), metric.about) for metric in METRICS),
        *(
            _field(name, pa.list_(pa.float32(), THRESHOLDS), "by threshold, from 255/255 down to 0; what *_max is made of")
            for name in CURVES
        ),
    ]
)
