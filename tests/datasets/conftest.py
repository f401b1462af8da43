"""A small output with photos, as a run leaves it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from outputs import SIZE, Write, photo

from pipeline.imaging.png import encode_mask
from pipeline.output.index import write_part
from pipeline.output.layout import output_path
from pipeline.output.output import Output
from pipeline.output.run_record import RunRecord
from pipeline.schema import INDEX
from pipeline.storage.files import Files


@pytest.fixture
def output(tmp_path: Path) -> Output:
    """An output whose last run read the folder ``photos``."""
    made = Output.at(str(tmp_path / "out"), Files())
    (tmp_path / "photos").mkdir()
    record = RunRecord("20260101-000000-aaaaaaaa", str(tmp_path / "photos"), "0" * 12, "fake", 1, 0)
    record.close(0)
    record.write(made)
    return made


@pytest.fixture
def write(output: Output, tmp_path: Path) -> Write:
    """``write({item_id: mask}, **columns)`` writes photos, masks and one index part.

    Items of one image share the text before ``#``. Columns that are lists have one value per item.
    """

    def part(masks: dict[str, np.ndarray], **columns: Any) -> None:
        rows = []
        for place, (item_id, alpha) in enumerate(masks.items()):
            path, image = output_path("mask", item_id), tmp_path / "photos" / item_id.partition("#")[0]
            output.write(output.layout.uri(path), encode_mask(alpha))
            row = {"item_id": item_id, "output_name": item_id, "status": "ok", "quality": 0.75, "finished_at": 1}
            row |= {"image_uri": str(image), "image_sha256": photo(image), "image_bytes": image.stat().st_size}
            row |= {"height": SIZE[0], "width": SIZE[1], "mask_path": path}
            rows.append(row | {name: value[place] if isinstance(value, list) else value for name, value in columns.items()})
        custom = [pa.field(name, pa.array([row[name] for row in rows]).type) for name in columns if name not in INDEX.names]
        write_part(output, pa.Table.from_pylist(rows, pa.schema([*INDEX, *custom])))

    return part
