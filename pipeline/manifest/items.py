"""From a manifest's rows, as they were written, to items."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigError, ItemRefused
from pipeline.manifest import boxes as boxes_of
from pipeline.manifest.boxes import Boxes
from pipeline.schema import ITEM, carried_name
from pipeline.storage import uris
from pipeline.storage.allowlist import AllowList, OutsideRoots

CORNERS = ("x0", "y0", "x1", "y1")
OWN = ("image_uri", "item_id", "box", "boxes", *CORNERS)
"""The columns that mean something here; all others are carried along."""

LONGEST_DETAIL = 500

# Names under which other tools keep what is image_uri here, the likeliest first.
_NEAR = (
    *("imageuri", "imageurl", "imgurl", "imageurls", "imagepath", "imgpath", "uri", "url", "path", "filepath", "image", "img"),
    *("filename", "file", "imagefile", "s3uri", "s3path", "key", "location", "source", "src", "photo", "picture"),
)

# URIs that are in their final form, and relative ones that only need their folder in front.
_SETTLED = r"^(?:/|s3://[^/@:]+/)"
_RELATIVE = r"^[^/]"
_KNOTTY = r"://|//|/$|(?:^|/)\.{1,2}(?:/|$)"
_SIGNED = r"^(?i:https?)://.*\?|://[^/?#]*@|://[^/@:]*:.*@"


class Roles(NamedTuple):
    """What a table's columns are for."""

    boxes: str
    """``box``, ``boxes``, ``corners`` or empty: how boxes are given."""
    has_id: bool
    carried: tuple[str, ...]
    """The further columns, under their own names."""


def clean_names(names: list[str], where: str) -> list[str]:
    """Column names without the spaces and the byte order mark that tools leave around them.

    Raises:
        ConfigError: two columns have one name.
    """
    clean = [name.strip().lstrip("\ufeff").strip() for name in names]
    for name in clean:
        if clean.count(name) > 1:
            raise ConfigError(f"{where} has two columns named {name!r}; rename or drop one")
    return clean


def roles(schema: pa.Schema, where: str) -> Roles:
    """Tell a manifest's columns apart.

    Raises:
        ConfigError: no ``image_uri``, boxes given in two ways or by half, a column of the wrong type, a name clash.
    """
    names = schema.names
    if "image_uri" not in names:
        raise ConfigError(f"{where} has no column image_uri; {_hint(names)}")
    for name in names:
        if name not in OWN and name.lower() in OWN:
            raise ConfigError(
                f"{where} has a column {name!r}; rename it to {name.lower()!r}, or to something else if it isn't that"
            )
    corners = [name for name in CORNERS if name in names]
    if corners and len(corners) < 4:
        missing = ", ".join(name for name in CORNERS if name not in corners)
        raise ConfigError(f"{where} has a column {corners[0]!r} but lacks {missing}; a box needs all of x0, y0, x1, y1")
    ways = [name for name in ("box", "boxes") if name in names] + ["corners"] * bool(corners)
    if len(ways) > 1:
        raise ConfigError(f"{where} gives boxes in two ways ({' and '.join(ways)}); keep one")
    _check_types(schema, where)
    carried = tuple(name for name in names if name not in OWN)
    travelling = [carried_name(name) for name in carried]
    for name in travelling:
        if travelling.count(name) > 1:
            raise ConfigError(f"{where} has two columns that would both travel as {name!r}; rename one")
    return Roles(boxes=ways[0] if ways else "", has_id="item_id" in names, carried=carried)


def items(
    raw: pa.Table,
    base: str,
    carried: pa.Schema,
    file: str,
    first_row: int,
    allowlist: AllowList,
    outside_roots: OutsideRoots | None = None,
) -> pa.Table:
    """Items from rows with clean column names.

    Args:
        base: what relative URIs are relative to.
        carried: the further columns as the whole manifest has them, under their travelling names.
        file: names a row without URI and id, together with its number.
        first_row: number of the table's first row in its file, from 1.
        roots: where images may lie.
        strays: counts the rows whose image lies elsewhere.

    Returns:
        schema ITEM followed by ``carried``; a row that can't be used has ``error_code`` and ``error_detail``.
    """
    plan = roles(raw.schema, file)
    rows = np.arange(raw.num_rows)
    suffixes: list[str] | None = None
    if plan.boxes == "boxes":
        spread_rows, values, suffixes = boxes_of.spread(raw.column("boxes").to_pylist())
        rows = np.array(spread_rows, dtype=np.int64)
        raw = raw.take(rows)
        boxes = boxes_of.from_values(values)
    else:
        boxes = _boxes(raw, plan.boxes)
    written = _text(raw.column("image_uri"))
    given = _text(raw.column("item_id")) if plan.has_id else pa.array([""] * raw.num_rows, pa.string())
    ids = _identities(
        given, written, boxes, suffixes, [f"{file}#row-{first_row + row}" for row in rows] if _blank(written) else []
    )
    uri_column, uri_faults = resolve_all(written, base)
    details = _details({**{row: fault.detail for row, fault in boxes.faults.items()}, **uri_faults}, raw.num_rows)
    uri_column, details = _without_strays(uri_column, details, allowlist, outside_roots)
    codes = pc.if_else(details.is_valid(), ItemRefused.code, pa.scalar(None, pa.string()))
    columns = [ids, uri_column, boxes.column(), codes, details]
    return pa.Table.from_arrays(columns + _carried(raw, plan, carried), schema=pa.schema([*ITEM, *carried]))


def resolve_all(written: pa.Array, base: str) -> tuple[pa.Array, dict[int, str]]:
    """``uris.resolve`` for a column of strings without nulls.

    Returns:
        the URIs, null where one can't be used, and what is wrong with those by row.
    """
    settled = pc.match_substring_regex(written, _SETTLED)
    if pc.all(settled).as_py():
        return written, {}
    relative = pc.and_not(pc.match_substring_regex(written, _RELATIVE), pc.match_substring_regex(written, _KNOTTY))
    joined = pc.binary_join_element_wise(base.rstrip("/"), written, "/")
    result = pc.if_else(settled, written, joined)
    rest = np.flatnonzero(pc.invert(pc.or_(settled, relative)).to_numpy(zero_copy_only=False)).tolist()
    if not rest:
        return result, {}
    texts = result.to_pylist()
    faults: dict[int, str] = {}
    for row in rest:
        try:
            texts[row] = uris.resolve(written[row].as_py(), base)
        except ItemRefused as error:
            texts[row] = None
            faults[row] = str(error)
    return pa.array(texts, pa.string()), faults


def _boxes(raw: pa.Table, way: str) -> Boxes:
    if not way:
        return boxes_of.no_boxes(raw.num_rows)
    columns = [_one(raw.column(name)) for name in (CORNERS if way == "corners" else ("box",))]
    if any(_is_text(column.type) for column in columns):
        lists = [column.to_pylist() for column in columns]
        if way == "box":
            return boxes_of.from_values(lists[0])
        rows = [
            [None if value is None or not str(value).strip() else value for value in row] for row in zip(*lists, strict=True)
        ]
        return boxes_of.from_values([None if row == [None] * 4 else row for row in rows])
    return boxes_of.from_columns(columns) if way == "corners" else boxes_of.from_lists(columns[0])


def _identities(given: pa.Array, written: pa.Array, boxes: Boxes, suffixes: list[str] | None, row_names: list[str]) -> pa.Array:
    """The ids: as given, else the image's URI with what tells its boxes apart, else the row's own name."""
    missing = pc.equal(given, "")
    if suffixes is None and not pc.any(missing).as_py():
        return given
    texts = pc.if_else(missing, written, given)
    knotty = pc.or_(pc.equal(texts, ""), pc.match_substring_regex(texts, _SIGNED)).to_numpy(zero_copy_only=False)
    boxed = boxes.valid.copy()
    boxed[list(boxes.faults)] = True
    changed = missing.to_numpy(zero_copy_only=False) & (knotty | boxed)
    if suffixes is None and not changed.any():
        return texts
    names: list[str] = texts.to_pylist()
    for row in np.flatnonzero(changed).tolist():
        if not names[row]:
            names[row] = row_names[row]
        else:
            label = boxes.label(row) if suffixes is None else ""
            names[row] = uris.unsigned(names[row]) + (f"#{label}" if label else "")
    return pa.array(names if suffixes is None else [name + suffix for name, suffix in zip(names, suffixes, strict=True)])


def _details(faults: dict[int, str], rows: int) -> pa.Array:
    if not faults:
        return pa.nulls(rows, pa.string())
    details: list[str | None] = [None] * rows
    for row, detail in faults.items():
        details[row] = detail[:LONGEST_DETAIL]
    return pa.array(details, pa.string())


def _without_strays(
    places: pa.Array, details: pa.Array, allowlist: AllowList, outside_roots: OutsideRoots | None
) -> tuple[pa.Array, pa.Array]:
    """URIs outside the roots become null, so that nothing further on can read them, and their rows say why."""
    flags = allowlist.outside(places)
    if not flags.any():
        return places, details
    outside = pa.array(flags)
    found = places.filter(outside)
    if outside_roots is not None:
        outside_roots.add(found)
    sentences = pc.utf8_slice_codeunits(allowlist.refusals(found), 0, LONGEST_DETAIL)
    return pc.if_else(outside, pa.scalar(None, pa.string()), places), pc.replace_with_mask(details, outside, sentences)


def _carried(raw: pa.Table, plan: Roles, carried: pa.Schema) -> list[pa.Array]:
    own = {carried_name(name): name for name in plan.carried}
    return [
        _one(raw.column(own[field.name]).cast(field.type)) if field.name in own else pa.nulls(raw.num_rows, field.type)
        for field in carried
    ]


def _check_types(schema: pa.Schema, where: str) -> None:
    def refuse(name: str, wanted: str) -> None:
        raise ConfigError(f"{where}: column {name} holds {schema.field(name).type}; it must hold {wanted}")

    if not _is_text(schema.field("image_uri").type):
        refuse("image_uri", "text: paths or URIs")
    for name in schema.names:
        kind = schema.field(name).type
        if name == "item_id" and not (_is_text(kind) or pa.types.is_integer(kind)):
            refuse(name, "text or whole numbers")
        if name in CORNERS and not (_is_text(kind) or _is_number(kind)):
            refuse(name, "numbers")
        if name == "box" and not (_is_text(kind) or (_is_list(kind) and _is_number(kind.value_type))):
            refuse(name, "lists of four numbers")
        if name == "boxes" and not (_is_text(kind) or (_is_list(kind) and _is_list(kind.value_type))):
            refuse(name, "lists of lists of four numbers")


def _hint(names: list[str]) -> str:
    plain = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in names}
    near = next((plain[name] for name in _NEAR if name in plain), None)
    if near is not None:
        return f"rename the column {near!r} to image_uri"
    listed = ", ".join(repr(name[:40]) for name in names[:8]) + (" …" if len(names) > 8 else "")
    return f"its columns are {listed}; one of them must be called image_uri and hold paths or URIs" if names else "it has none"


def _text(column: pa.ChunkedArray) -> pa.Array:
    """As strings; null becomes empty."""
    return _one(pc.fill_null(column.cast(pa.string()), ""))


def _one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column if isinstance(column, pa.Array) else column.combine_chunks()


def _blank(column: pa.Array) -> bool:
    return bool(pc.any(pc.equal(column, "")).as_py())


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind)
    )


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind))


def _is_list(kind: Any) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_null(kind)
    )
