"""Convert values of manifest columns to those of JSON."""

from __future__ import annotations

import json
import math
from datetime import date, datetime, time
from typing import Any

import pyarrow as pa

from pipeline.manifest.items import is_list


def plain(value: Any) -> Any:
    """Return a value as JSON has it: dates and other types as text, NaN and infinity as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value.isoformat() if isinstance(value, date | datetime | time) else str(value)


def json_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column after ``plain``."""
    if is_list(kind):
        return pa.list_(json_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(kind.field(place).name, json_type(kind.field(place).type)) for place in range(kind.num_fields)])
    same = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return kind if same else pa.string()


def to_json(content: Any) -> bytes:
    """Return one line of JSON, UTF-8. Halves of surrogates are written as escapes."""
    try:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(content, separators=(",", ":")).encode()
