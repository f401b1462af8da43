"""Convert the rows of a manifest to items."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Collection, Iterable
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.columns import BOXES, Columns
from pipeline.errors import ConfigError, ItemRefused
from pipeline.manifest import boxes as box_columns
from pipeline.manifest.boxes import Boxes
from pipeline.manifest.names import NameTemplate, output_names
from pipeline.manifest.points import with_points
from pipeline.manifest.videos import VIDEO_COLUMN, with_videos
from pipeline.schema import ITEM, MAX_DETAIL, carried_name
from pipeline.storage import uris
from pipeline.storage.allowlist import RETRY_ITEM, AllowList, OutsideRoots

CORNERS = BOXES[2:]
OWN_COLUMNS = ("image_uri", "item_id", *BOXES)
"""Columns with a meaning; all others are carried into the index."""

USUAL = Columns()
"""No column is chosen: all have their usual names."""

MAX_TEXT = 8192
"""Characters of an id and of an image's address, at most. S3 keys have 1,024 bytes, and servers refuse longer addresses."""

MAX_COLUMNS = 2000
"""Columns of a manifest, at most."""

UNNAMED = "{}: columns without a name are left out"

# Names of other tools for image_uri, the most likely first.
_SIMILAR_NAMES = (
    *("imageuri", "imageurl", "imgurl", "imageurls", "imagepath", "imgpath", "uri", "url", "path", "filepath", "image", "img"),
    *("filename", "file", "imagefile", "s3uri", "s3path", "key", "location", "source", "src", "photo", "picture"),
)

# URIs that stay as they are, relative ones that only need their folder, and those that need uris.resolve.
_ABSOLUTE = r"^(?:/|s3://[^/@:]+/)"
_RELATIVE = r"^[^/]"
_SPECIAL = r"://|//|/$|(?:^|/)\.{1,2}(?:/|$)"
_SIGNED = r"^(?i:https?)://.*\?|://[^/?#]*@|://[^/@:]*:.*@"


class Roles(NamedTuple):
    """The meaning of a table's columns."""

    boxes: str
    """Form of the boxes: ``box``, ``boxes``, ``corners``, or empty if there are none."""
    has_id: bool
    carried: tuple[str, ...]
    """The carried columns, under their own names."""


def _clean(name: str) -> str:
    return name.strip().lstrip("\ufeff").strip()


def is_name(name: str) -> bool:
    """Return whether a column has a name, and not only spaces."""
    return bool(_clean(name))


def check_count(names: Collection[str], source: str) -> None:
    """Refuse more than ``MAX_COLUMNS`` columns.

    Raises:
        ConfigError: There are more.
    """
    if len(names) > MAX_COLUMNS:
        first = ", ".join(repr(name[:40]) for name in islice(names, 3))
        raise ConfigError(
            f"{source} has more than {MAX_COLUMNS} columns ({first}, …); drop the others, or write such values into one column"
        )


def clean_names(names: list[str], source: str, chosen: Columns = USUAL) -> list[str]:
    """Remove spaces and byte order marks around column names, and give chosen columns their usual names.

    Raises:
        ConfigError: Two columns have the same name, or there are too many.
    """
    check_count(names, source)
    clean = [chosen.rename(_clean(name)) for name in names]
    if (twice := _repeated(clean)) is not None:
        raise ConfigError(f"{source} has two columns named {chosen.original(twice)!r}; rename or drop one")
    return clean


def _repeated(names: Iterable[str]) -> str | None:
    """Return the first name that occurs twice; None if there is none."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def roles(schema: pa.Schema, source: str, chosen: Columns = USUAL) -> Roles:
    """Determine the roles of a manifest's columns, which have their usual names.

    Raises:
        ConfigError: ``image_uri`` or a chosen column is missing, boxes are incomplete or given in two forms, a type is wrong,
            or names clash.
    """
    names = schema.names
    if (absent := chosen.missing(names)) is not None:
        raise ConfigError(f"{source} has no column {absent[0]!r} ({absent[1]}); {_listed(map(chosen.original, names))}")
    with_bytes = [field.name for field in schema if has_bytes(field.type)]
    if VIDEO_COLUMN in names and "image_uri" not in names:
        names = ["image_uri", *names]  # it is made of the other one
    if "image_uri" not in names and with_bytes:
        raise ConfigError(
            f"{source} has no column image_uri, and the bytes in {with_bytes[0]!r} are no pictures; {_listed(names)}; name the "
            "one with the paths, URIs or bytes of images: --image-column NAME"
        )
    if "image_uri" not in names:
        raise ConfigError(f"{source} has no column image_uri; {_hint(names)}")
    other_corners = [name for name in names if name.lower() in ("x1", "y1", "x2", "y2")]
    if len(other_corners) == 4 and "x0" not in names:
        listed = ",".join(sorted(other_corners, key=lambda name: ("x1", "y1", "x2", "y2").index(name.lower())))
        raise ConfigError(f"{source} has no columns x0, y0; if its boxes are in {listed}, add --box-column {listed}")
    for name in names:
        if name not in (*OWN_COLUMNS, VIDEO_COLUMN) and name.lower() in (*OWN_COLUMNS, VIDEO_COLUMN):
            raise ConfigError(f"{source} has a column {name!r}; rename it to {name.lower()!r}, or to a different name")
    corners = [name for name in CORNERS if name in names]
    if corners and len(corners) < 4:
        missing = ", ".join(name for name in CORNERS if name not in corners)
        raise ConfigError(f"{source} has a column {corners[0]!r} but lacks {missing}; a box needs all of x0, y0, x1, y1")
    forms = [name for name in ("box", "boxes") if name in names] + ["corners"] * bool(corners)
    if len(forms) > 1:
        raise ConfigError(f"{source} gives boxes in two forms ({' and '.join(forms)}); keep one")
    _check_types(schema, source)
    carried = tuple(name for name in schema.names if name not in OWN_COLUMNS and name not in with_bytes)
    if (twice := _repeated(carried_name(name).lower() for name in carried)) is not None:
        raise ConfigError(f"{source} has two columns for the index column {twice!r} (SQL ignores case); rename one")
    return Roles(boxes=forms[0] if forms else "", has_id="item_id" in names, carried=carried)


def items(
    raw: pa.Table,
    base: str,
    carried: pa.Schema,
    file: str,
    first_row: int,
    allowlist: AllowList,
    outside_roots: OutsideRoots | None = None,
    names: NameTemplate = NameTemplate(),  # noqa: B008  (immutable)
) -> pa.Table:
    """Convert rows to items.

    Args:
        raw: Rows with clean column names.
        base: Folder or prefix of relative URIs.
        carried: Carried columns of the complete manifest, under their names in the index.
        file: Name of the file, for the ids of rows without URI and id.
        first_row: Number of the first row in its file, from 1.
        allowlist: Allowed locations of images.
        outside_roots: Counts the rows whose image is outside them.
        names: How the files of items are named.

    Returns:
        Schema ITEM followed by ``carried``. An unusable row has ``error_code`` and ``error_detail``.
    """
    raw, both = with_videos(raw)
    columns = roles(raw.schema, file)
    raw, rows, boxes, suffixes = _one_box_per_row(raw, columns.boxes)
    boxes, bad_points = with_points(raw, boxes)
    written, long_uris = _drop_long(_text(raw.column("image_uri")), "image_uri")
    ids_of_rows = _text(raw.column("item_id")) if columns.has_id else pa.array([""] * raw.num_rows, pa.string())
    given, long_ids = _drop_long(ids_of_rows, "item_id")
    row_names = [f"{file}#row-{first_row + row}" for row in rows] if _has_empty(written) else []
    ids = _ids(given, written, boxes, suffixes, row_names)
    resolved, errors = resolve_all(written, base)
    images = pc.coalesce(resolved, pc.if_else(pc.equal(written, ""), ids, written))
    named, unnamed = output_names(names, raw, given, images, boxes, suffixes, base)
    invalid_boxes = {row: box.message for row, box in boxes.invalid.items()}
    named_twice = {at: both[row] for at, row in enumerate(rows.tolist()) if row in both}
    details = _details(unnamed | invalid_boxes | bad_points | errors | long_uris | long_ids | named_twice, raw.num_rows)
    resolved, details = _refuse_outside(resolved, details, allowlist, outside_roots)
    codes = pc.if_else(details.is_valid(), ItemRefused.code, pa.scalar(None, pa.string()))
    arrays = [ids, named, resolved, boxes.column(), codes, details, *_carried(raw, columns, carried)]
    return pa.Table.from_arrays(arrays, schema=pa.schema([*ITEM, *carried]))


def resolve_all(written: pa.Array, base: str) -> tuple[pa.Array, dict[int, str]]:
    """Apply ``uris.resolve`` to a column of strings without nulls.

    Returns:
        The URIs, null where unusable, and the error messages by row.
    """
    absolute = pc.match_substring_regex(written, _ABSOLUTE)
    if pc.all(absolute).as_py():
        return written, {}
    relative = pc.and_not(pc.match_substring_regex(written, _RELATIVE), pc.match_substring_regex(written, _SPECIAL))
    joined = pc.binary_join_element_wise(base.rstrip("/"), written, "/")
    result = pc.if_else(absolute, written, joined)
    rest = np.flatnonzero(pc.invert(pc.or_(absolute, relative)).to_numpy(zero_copy_only=False)).tolist()
    if not rest:
        return result, {}
    texts = result.to_pylist()
    errors: dict[int, str] = {}
    for row in rest:
        try:
            texts[row] = uris.resolve(written[row].as_py(), base)
        except ItemRefused as error:
            texts[row] = None
            errors[row] = str(error)
    return pa.array(texts, pa.string()), errors


def _one_box_per_row(raw: pa.Table, form: str) -> tuple[pa.Table, npt.NDArray[np.int64], Boxes, list[str] | None]:
    """Repeat the rows of a column ``boxes``, once per box.

    Returns:
        The rows, the place that each of them had, their boxes, and the ends of their ids; None without such a column.
    """
    if form != "boxes":
        return raw, np.arange(raw.num_rows), _boxes(raw, form), None
    expanded, values, suffixes = box_columns.expand(box_columns.to_values(raw.column("boxes")))
    rows = np.array(expanded, dtype=np.int64)
    # Without the column, or each item would get a copy of all boxes of its image.
    return raw.drop_columns("boxes").take(rows), rows, box_columns.from_values(values), suffixes


def _boxes(raw: pa.Table, form: str) -> Boxes:
    if not form:
        return box_columns.no_boxes(raw.num_rows)
    columns = [_one_chunk(raw.column(name)) for name in (CORNERS if form == "corners" else ("box",))]
    if any(_is_text(column.type) for column in columns):
        lists = [column.to_pylist() for column in columns]
        if form == "box":
            return box_columns.from_values(lists[0])
        rows = [
            [None if value is None or str(value).strip().lower() in box_columns.NO_BOX else value for value in row]
            for row in zip(*lists, strict=True)
        ]
        return box_columns.from_values([None if row == [None] * 4 else row for row in rows])
    return box_columns.from_columns(columns) if form == "corners" else box_columns.from_lists(columns[0])


def _ids(given: pa.Array, written: pa.Array, boxes: Boxes, suffixes: list[str] | None, row_names: list[str]) -> pa.Array:
    """Return the given ids; where there is none, the image's URI with the box or point, or the name of the row."""
    missing = pc.equal(given, "")
    if suffixes is None and not pc.any(missing).as_py():
        return given
    texts = pc.if_else(missing, written, given)
    special = pc.or_(pc.equal(texts, ""), pc.match_substring_regex(texts, _SIGNED)).to_numpy(zero_copy_only=False)
    boxed = boxes.valid.copy()
    boxed[[*boxes.invalid, *boxes.points]] = True
    changed = missing.to_numpy(zero_copy_only=False) & (special | boxed)
    if suffixes is None and not changed.any():
        return texts
    names: list[str] = texts.to_pylist()
    for row in np.flatnonzero(changed).tolist():
        if not names[row]:
            names[row] = row_names[row]
        else:
            label = boxes.label(row) if suffixes is None else ""
            names[row] = uris.strip_signature(names[row]) + (f"#{label}" if label else "")
    return pa.array(names if suffixes is None else [name + suffix for name, suffix in zip(names, suffixes, strict=True)])


def _details(errors: dict[int, str], rows: int) -> pa.Array:
    details: list[str | None] = [None] * rows
    for row, detail in errors.items():
        details[row] = detail[:MAX_DETAIL]
    return pa.array(details, pa.string())


def _refuse_outside(
    resolved: pa.Array, details: pa.Array, allowlist: AllowList, outside_roots: OutsideRoots | None
) -> tuple[pa.Array, pa.Array]:
    """Replace URIs outside the roots by null, so that no later stage can read them, and add the reason to the details."""
    flags = allowlist.outside(resolved)
    if not flags.any():
        return resolved, details
    outside = pa.array(flags)
    refused = resolved.filter(outside)
    if outside_roots is not None:
        outside_roots.add(refused)
    messages = pc.binary_join_element_wise(allowlist.refusals(refused), RETRY_ITEM, "; ")
    messages = pc.utf8_slice_codeunits(messages, 0, MAX_DETAIL)
    return pc.if_else(outside, pa.scalar(None, pa.string()), resolved), pc.replace_with_mask(details, outside, messages)


def _carried(raw: pa.Table, columns: Roles, carried: pa.Schema) -> list[pa.Array]:
    own = {carried_name(name): name for name in columns.carried}
    return [
        _one_chunk(raw.column(own[field.name]).cast(field.type)) if field.name in own else pa.nulls(raw.num_rows, field.type)
        for field in carried
    ]


def _check_types(schema: pa.Schema, source: str) -> None:
    def refuse(name: str, expected: str) -> None:
        raise ConfigError(f"{source}: column {name} has type {schema.field(name).type}; it must contain {expected}")

    if "image_uri" in schema.names and not _is_text(schema.field("image_uri").type):
        refuse("image_uri", "text: paths or URIs")
    for name in schema.names:
        kind = schema.field(name).type
        if name == VIDEO_COLUMN and not _is_text(kind):
            refuse(name, "text: paths or URIs")
        if name == "item_id" and not (_is_text(kind) or pa.types.is_integer(kind)):
            refuse(name, "text or integers")
        if name in CORNERS and not (_is_text(kind) or _is_number(kind)):
            refuse(name, "numbers")
        if name == "box" and not (_is_text(kind) or (_is_list(kind) and _is_number(kind.value_type))):
            refuse(name, "lists of four numbers")
        if name == "boxes" and not (_is_text(kind) or (_is_list(kind) and _holds_boxes(kind.value_type))):
            refuse(name, "lists of lists of four numbers")


def _holds_boxes(kind: pa.DataType) -> bool:
    """Return whether values of a column ``boxes`` are boxes, or the four numbers of one."""
    return _is_list(kind) or _is_number(kind) or _is_text(kind)


def has_bytes(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds bytes, such as files. They are not carried into the index."""
    if pa.types.is_nested(kind):
        return any(has_bytes(kind.field(child).type) for child in range(kind.num_fields))
    return any(check(kind) for check in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary))


def is_list(kind: pa.DataType) -> bool:
    """Return whether a column of this type has lists, of any kind."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _hint(names: list[str]) -> str:
    by_key = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in names}
    similar = next((by_key[key] for key in _SIMILAR_NAMES if key in by_key), None)
    if similar is not None:
        return f"if the column {similar!r} has the paths or URIs of images, add --image-column {shlex.quote(similar)}"
    return f"{_listed(names)}; name the one with the paths or URIs of images: --image-column NAME" if names else _listed(names)


def _listed(names: Iterable[str]) -> str:
    texts = [repr(name[:40]) for name in names]
    return f"its columns are {', '.join(texts[:12])}{' …' if len(texts) > 12 else ''}" if texts else "it has no columns"


def _text(column: pa.ChunkedArray) -> pa.Array:
    """Convert a column to strings; null becomes empty."""
    return _one_chunk(pc.fill_null(column.cast(pa.string()), ""))


def _one_chunk(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column if isinstance(column, pa.Array) else column.combine_chunks()


def _drop_long(texts: pa.Array, name: str) -> tuple[pa.Array, dict[int, str]]:
    """Replace texts of more than ``MAX_TEXT`` characters by empty ones. Returns them, and the error messages by row."""
    lengths = pc.utf8_length(texts)
    is_long = pc.greater(lengths, MAX_TEXT)
    if not pc.any(is_long, min_count=0).as_py():
        return texts, {}
    rows = np.flatnonzero(is_long.to_numpy(zero_copy_only=False)).tolist()
    errors = {row: f"{name} has {lengths[row].as_py()} characters; it may have {MAX_TEXT}" for row in rows}
    return pc.if_else(is_long, "", texts), errors


def _has_empty(column: pa.Array) -> bool:
    return bool(pc.any(pc.equal(column, "")).as_py())


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return any(
        check(kind) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    )


def _is_number(kind: Any) -> bool:
    return any(check(kind) for check in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null))


def _is_list(kind: Any) -> bool:
    return is_list(kind) or pa.types.is_null(kind)
