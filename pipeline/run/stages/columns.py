"""Store pixels in Arrow columns, and carry errors in rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import ItemError
from pipeline.schema import MAX_DETAIL

T = TypeVar("T")
R = TypeVar("R")


class Packed:
    """Arrays of any shape as one column of bytes. Shapes travel in other columns.

    A single array is not copied, and must not be changed afterwards. Several are copied as they are added, so the caller may
    free them.
    """

    def __init__(self) -> None:
        self.only: npt.NDArray[np.uint8] | None = None
        self.data = bytearray()
        self.ends, self.valid = [0], list[bool]()

    @property
    def bytes(self) -> int:
        """Bytes of all arrays."""
        return self.ends[-1]

    def add(self, array: npt.NDArray[np.uint8] | None) -> None:
        """Add a row; None becomes null."""
        if array is not None and not self.bytes:
            self.only = array
        elif array is not None:
            for one in (array,) if self.only is None else (self.only, array):
                self.data.extend(one.reshape(-1).data)
            self.only = None
        self.ends.append(self.bytes + (0 if array is None else array.size))
        self.valid.append(array is not None)

    def column(self) -> pa.LargeBinaryArray:
        """Return the column. Nothing may be added afterwards."""
        data = self.data if self.only is None else self.only.reshape(-1)
        valid = pa.array(self.valid, pa.bool_()).buffers()[1]
        buffers = [valid, pa.py_buffer(np.array(self.ends, np.int64)), pa.py_buffer(data)]
        return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(self.valid), buffers)


def pack(arrays: Iterable[npt.NDArray[np.uint8] | None]) -> pa.LargeBinaryArray:
    """Return arrays as one column of bytes; see ``Packed``."""
    packed = Packed()
    for array in arrays:
        packed.add(array)
    return packed.column()


def unpack(column: pa.ChunkedArray, row: int, shape: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
    """Return one row of a packed column as a read-only view (Arrow's scalars would copy), or None for null."""
    for chunk in column.chunks:
        if row < len(chunk):
            break
        row -= len(chunk)
    if not chunk.is_valid()[row].as_py():
        return None
    _, offsets, data = chunk.buffers()
    start, end = np.frombuffer(offsets, np.int64)[chunk.offset + row :][:2]
    view = np.frombuffer(data, np.uint8)[start:end].reshape(shape)
    view.flags.writeable = False
    return view


def errors_of(table: pa.Table) -> list[ItemError | None]:
    """Return a list for the errors of the rows. Rows that failed before get a marker that stops further work."""
    return [None if code is None else FailedBefore() for code in table["error_code"].to_pylist()]


class FailedBefore(ItemError):
    """The row failed in an earlier stage, which has written its code and detail."""

    code = "before"


def attempt(errors: list[ItemError | None], row: int, step: Callable[[], T]) -> T | None:
    """Return the result of a step, or None if the row fails or has failed before. The error is stored in ``errors``."""
    if errors[row] is not None:
        return None
    try:
        return step()
    except ItemError as error:
        errors[row] = error.with_traceback(None)  # it leads to this frame, and so to the errors and the pixels
        return None


def with_errors(table: pa.Table, errors: Sequence[ItemError | None]) -> pa.Table:
    """Return the table with new errors in ``error_code`` and ``error_detail``."""
    codes, details = table["error_code"].to_pylist(), table["error_detail"].to_pylist()
    for row, error in enumerate(errors):
        if error is not None and not isinstance(error, FailedBefore):
            codes[row], details[row] = error.code, str(error)[:MAX_DETAIL]
    return replace(table, error_code=pa.array(codes, pa.string()), error_detail=pa.array(details, pa.string()))


def replace(table: pa.Table, **columns: pa.Array) -> pa.Table:
    """Return the table with these columns set, or added at its end."""
    for name, column in columns.items():
        at = table.schema.get_field_index(name)
        field = pa.field(name, column.type)
        table = table.append_column(field, column) if at < 0 else table.set_column(at, field, column)
    return table


def sha256(data: bytes) -> str:
    """Return the SHA-256 as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return Python values as an Arrow column of this type; None becomes null."""
    return pa.array(values, kind)
