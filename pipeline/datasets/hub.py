"""Share between both data sets for Hugging Face: columns, names of masks, and the card.

They have one row per object: ``image``, ``mask``, ``item_id``, ``category``, ``status``, ``quality``, then the custom columns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import yaml

from pipeline.datasets.classes import class_of
from pipeline.datasets.form import Picture
from pipeline.datasets.rows import Row
from pipeline.storage.files import Files
from pipeline.storage.uris import join

TRAIN = "train"
"""The split of a set without splits."""

_OWN = {"item_id": pa.string(), "category": pa.string(), "status": pa.string(), "quality": pa.float32()}
_READ_AS_FILE = re.compile(r"(?:^|_)file_names?$")


class Columns:
    """The columns of a row besides image and mask.

    Args:
        custom: The custom columns with their types. One whose name means something else here gets an underscore at its end.
    """

    def __init__(self, custom: Mapping[str, pa.DataType]) -> None:
        self._custom: dict[str, str] = {}
        for name in custom:
            free = name
            while free in {"image", "mask", *_OWN, *self._custom} or _READ_AS_FILE.search(free):
                free += "_"
            self._custom[free] = name
        self.types: dict[str, pa.DataType] = _OWN | {free: custom[name] for free, name in self._custom.items()}

    def values(self, row: Row) -> dict[str, Any]:
        """Return the values of a row, as Python has them."""
        own = {"item_id": row["item_id"], "category": class_of(row), "status": row["status"], "quality": row["quality"]}
        return own | {free: row[name] for free, name in self._custom.items()}


def mask_name(picture: Picture, number: int, several: bool) -> str:
    """Return the name of a mask, without a suffix. If any picture has several, all names end in the mask's number, from 1."""
    return f"{picture.name}-{number}" if several else picture.name


def write_card(folder: str, paths: Mapping[str, str], columns: Columns, files: Files) -> None:
    """Write ``README.md``, which tells ``datasets`` and the hub where the splits are."""
    config = {"config_name": "default", "data_files": [{"split": split, "path": path} for split, path in paths.items()]}
    head = yaml.safe_dump({"task_categories": ["image-segmentation"], "configs": [config]}, sort_keys=False)
    text = (
        "One row per object. `image` is the photo, `mask` the object's opacity in it (8-bit, 0 to 255), made by Matteline. "
        "`quality` is Matteline's score of the mask, from 0 to 1; `status` is `review` where it is low.\n\nColumns: "
    )
    named = ", ".join(f"`{name}`" for name in ("image", "mask", *columns.types))
    files.write(join(folder, "README.md"), f"---\n{head}---\n\n{text}{named}.\n".encode())
