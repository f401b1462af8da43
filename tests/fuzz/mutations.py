"""Damage files of any format, reproducibly: their bytes, their text, their JSON values, or their tables."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

NUMBERS = (0, 1, 2, 3, 4, 8, 0x10, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""Values of wrong fields: the limits of each integer width."""

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**53 + 1, 2**63, -(2**64), 10**30, 10**400, 0.5, -0.0, 1e308, 5e-324),
    *(
        float("nan"),
        float("inf"),
        -float("inf"),
        "",
        " ",
        "0",
        "NaN",
        "\x00",
        "\ud800",
        "é\U0001f600\u202e",
        "../../x",
        "x" * 9000,
    ),
    *("2026-01-31T12:00:00Z", "9999-12-31T23:59:59+14:00", "0001-01-01", "[1, 2, 3, 4]", "s3://b/k", "http://[::1"),
    *([], {}, [None], [[]], [1, "a", None], {"a": 1}, {"": None}),
)
"""Values of every JSON type, and the awkward ones of each."""

DEPTHS = (20, 150, 900, 1100, 20_000)
"""Depths of nested lists and objects: below and above the limits of parsers."""


def damage(rng: random.Random, data: bytes, others: Sequence[bytes] = (), tokens: Sequence[bytes] = ()) -> bytes:
    """Damage bytes one to three times.

    Args:
        rng: Decides everything.
        data: A valid file.
        others: Further valid files, for splices.
        tokens: Pieces with a meaning in the format, which replace or join others.
    """
    kinds = [_cut, _flip, _overwrite, _range, *([_splice] if others else []), *([_insert] * 2 if tokens else [])]
    for _ in range(rng.choice((1, 1, 2, 3))):
        if not data:
            break
        data = rng.choice(kinds)(rng, data, others, tokens)
    return data


def _place(rng: random.Random, length: int) -> int:
    """Return a position: anywhere, or near the start or the end, where formats keep their structure."""
    near = min(length, 400)
    return rng.choice((rng.randrange(length), rng.randrange(near), length - 1 - rng.randrange(near)))


def _cut(rng: random.Random, data: bytes, *_: Any) -> bytes:
    return data[: rng.choice((rng.randrange(len(data)), len(data) - rng.randint(1, min(20, len(data)))))]


def _flip(rng: random.Random, data: bytes, *_: Any) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        damaged[_place(rng, len(data))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _overwrite(rng: random.Random, data: bytes, *_: Any) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        number, width, at = rng.choice(NUMBERS), rng.choice((1, 2, 4, 8)), _place(rng, len(data))
        damaged[at : at + width] = (number % 256**width).to_bytes(width, rng.choice(("big", "little")))
    return bytes(damaged)


def _range(rng: random.Random, data: bytes, *_: Any) -> bytes:
    """Zero, repeat, remove, copy or randomise a range."""
    start = _place(rng, len(data))
    end = min(len(data), start + rng.choice((1, 4, 16, 64, len(data))))
    piece, elsewhere = data[start:end], rng.randrange(len(data))
    middle = rng.choice((bytes(len(piece)), piece * rng.choice((2, 3, 50)), b"", rng.randbytes(len(piece)), None))
    return data[:elsewhere] + piece + data[elsewhere:] if middle is None else data[:start] + middle + data[end:]


def _splice(rng: random.Random, data: bytes, others: Sequence[bytes], _: Any) -> bytes:
    other = rng.choice(others)
    return data[: rng.randrange(len(data))] + other[rng.randrange(max(1, len(other))) :]


def _insert(rng: random.Random, data: bytes, _: Any, tokens: Sequence[bytes]) -> bytes:
    """Insert a token, or replace one of the file's by it."""
    token, at = rng.choice(tokens), rng.randrange(len(data) + 1)
    if rng.random() < 0.5:
        found = [place for one in tokens if one and (place := data.find(one, at)) >= 0]
        at = min(found, default=at)
    return data[:at] + token + data[at + rng.choice((0, 0, 1, len(token))) :]


def damage_json(rng: random.Random, value: Any) -> bytes:
    """Change one to four values of a JSON document, and return it as text that a strict parser may refuse."""
    damaged = copy.deepcopy(value)
    deep = ""
    for _ in range(rng.choice((1, 1, 2, 4))):
        holders = _holders(damaged)
        if not holders:
            return json.dumps(rng.choice(ODD_VALUES)).encode()
        holder, key = rng.choice(holders)
        match rng.randrange(6):
            case 0:
                del holder[key]
            case 1 | 2 | 3:
                holder[key] = copy.deepcopy(rng.choice(ODD_VALUES))
            case 4:
                holder[key] = copy.deepcopy(rng.choice([one[at] for one, at in holders]))
            case _ if not deep:
                deep = _nested(rng)
                holder[key] = "deep"
    text = json.dumps(damaged, ensure_ascii=rng.random() < 0.8).encode("utf-8", "surrogatepass")
    return text.replace(b'"deep"', deep.encode())


def _holders(value: Any) -> list[tuple[Any, Any]]:
    """Return every container of a document with each of its keys or positions."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    found = [(value, key) for key in keys]
    for key in keys:
        found += _holders(value[key])
    return found


def _nested(rng: random.Random) -> str:
    depth = rng.choice(DEPTHS)
    return rng.choice(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth))


TYPES = (
    *(pa.string(), pa.large_string(), pa.binary(), pa.int8(), pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.bool_()),
    *(pa.null(), pa.timestamp("us"), pa.date32(), pa.decimal128(20, 3), pa.list_(pa.float64()), pa.list_(pa.string())),
    *(pa.dictionary(pa.int32(), pa.string()), pa.struct([("a", pa.int64())]), pa.list_(pa.list_(pa.int64()))),
)


def damage_table(rng: random.Random, table: pa.Table) -> pa.Table:
    """Change one or two columns of a table: drop, rename, retype, empty, or give it odd values. Its rows may be repeated."""
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(table.num_columns)
        field, column = table.schema.field(at), table.column(at)
        match rng.randrange(7):
            case 0 if table.num_columns > 1:
                table = table.remove_column(at)
            case 1:
                names = [
                    *table.schema.names[:at],
                    rng.choice((rng.choice(table.schema.names), "x", "")),
                    *table.schema.names[at + 1 :],
                ]
                table = table.rename_columns(names)
            case 2:
                table = table.set_column(at, pa.field(field.name, field.type), pa.nulls(len(column), field.type))
            case 3:
                table = pa.concat_tables([table, table.slice(rng.randrange(max(1, table.num_rows)), 2)])
            case 4:
                table = _with(table, at, _filled(rng.choice(TYPES), column, rng))
            case _:
                values = column.to_pylist()
                if values:
                    values[rng.randrange(len(values))] = rng.choice(ODD_VALUES)
                table = _with(table, at, _as_array(values, field.type))
    return table


def _with(table: pa.Table, at: int, column: pa.Array | None) -> pa.Table:
    return table if column is None else table.set_column(at, pa.field(table.schema.names[at], column.type), column)


def _filled(kind: pa.DataType, column: pa.ChunkedArray, rng: random.Random) -> pa.Array | None:
    """Return a column of another type: its values, if they can be converted, else nulls or numbers."""
    try:
        found = column.cast(kind)
        return found.combine_chunks() if found.num_chunks else pa.nulls(0, kind)
    except pa.ArrowException:
        number = rng.choice((None, 0, 3))
        return _as_array([number] * len(column), kind) or pa.nulls(len(column), kind)


def _as_array(values: list[Any], kind: pa.DataType) -> pa.Array | None:
    """Return the values as an array of this type, else of an inferred one; None if Arrow has no type for them."""
    attempts: tuple[Callable[[], pa.Array], ...] = (lambda: pa.array(values, kind), lambda: pa.array(values))
    for attempt in attempts:
        try:
            return attempt()
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            continue
    return None
