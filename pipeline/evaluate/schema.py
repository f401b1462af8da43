"""The schema of an evaluation: one row per item of the manifest."""

from __future__ import annotations

import pyarrow as pa

from pipeline.quality.metrics import CURVES, METRICS, THRESHOLDS
from pipeline.schema import INDEX

INDEX_COLUMNS = (
    *("item_id", "status", "error_code", "error_detail", "image_uri", "height", "width", "mask_path", "quality", "signals"),
    *("detector_score", "agreement"),
)
"""Index columns that an evaluation has too."""


def _field(name: str, kind: pa.DataType, about: str) -> pa.Field:
    return pa.field(name, kind, metadata={"about": about})


EVALUATION = pa.schema(
    [
        *(INDEX.field(name) for name in INDEX_COLUMNS if not name.startswith("error")),
        _field("error_code", pa.string(), "why there are no metrics: the index's code, truth or mask; null if there are"),
        _field("error_detail", pa.string(), "one sentence: what is wrong and how to fix it"),
        _field("truth_uri", pa.string(), "the ground truth: an absolute path or a URI"),
        _field("group", pa.string(), "the manifest's group, or the item id; items of a group are resampled together"),
        _field("tags", pa.list_(pa.string()), "the manifest's tags, and border and thin from the ground truth"),
        *(_field(metric.name, pa.float64(), metric.about) for metric in METRICS),
        *(
            _field(name, pa.list_(pa.float32(), THRESHOLDS), "by threshold, from 255/255 down to 0; *_max is made of it")
            for name in CURVES
        ),
    ]
)
