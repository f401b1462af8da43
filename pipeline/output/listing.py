"""List the objects of an output in stretches that can be listed side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from posixpath import normpath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.concurrency import Each
from pipeline.errors import StorageError
from pipeline.output.layout import is_inside
from pipeline.output.output import Output
from pipeline.storage.backend import LISTED

STRETCH = 50_000
"""Objects per stretch, about."""

MAX_STRETCHES = 4096
"""Each begins with a request for its first key, and is a record of Ray's."""

HIDDEN = r"(^|/)\."
"""Paths of which a component begins with a dot, such as those of temporary files."""

THREADS = 16
"""First keys that are looked up at the same time."""


class KeySample:
    """At most ``2 * MAX_STRETCHES`` of the keys that it is given, evenly spaced in their order."""

    def __init__(self) -> None:
        self.count = 0
        self.keys = pa.array([], pa.binary())
        self._step = 1

    def add(self, keys: pa.ChunkedArray) -> None:
        """Add keys of type binary."""
        chosen = keys.take(pa.array(np.arange(-self.count % self._step, len(keys), self._step)))
        self.count += len(keys)
        self.keys = pa.concat_arrays([self.keys, *chosen.chunks])
        while len(self.keys) > 2 * MAX_STRETCHES:
            self.keys, self._step = self.keys.take(pa.array(np.arange(0, len(self.keys), 2))), 2 * self._step


@dataclass(frozen=True)
class Stretch:
    """The objects below a folder of an output that the store lists after one boundary and up to the next one."""

    folder: str
    """Path below the output; "" for all of it."""
    after: str
    """A boundary, as a path below the folder; "" for the start of the folder."""


@dataclass(frozen=True)
class ListStretch:
    """Lists one stretch. It is sent to the workers.

    A stretch ends at the first boundary that it meets. Boundaries are names of objects, so stretches neither overlap nor leave
    anything out, whatever order the store lists in: S3 sorts by bytes, others sort folder by folder.
    """

    output: Output
    boundaries: pa.Array

    def __call__(self, stretch: Stretch) -> Iterator[pa.Table]:
        """Yield tables with the schema ``LISTED`` and paths below the output.

        Raises:
            StorageError: The store cannot be listed.
        """
        layout = self.output.layout
        yield LISTED.empty_table()
        for table in self.output.files.scan(layout.uri(stretch.folder) if stretch.folder else layout.folder, stretch.after):
            if stretch.folder:
                paths = pc.binary_join_element_wise(stretch.folder.encode(), table["path"], b"/")
                table = table.set_column(0, LISTED.field("path"), paths)  # noqa: PLW2901
            end = pc.index(pc.is_in(table["path"], value_set=self.boundaries), True).as_py()
            yield table if end < 0 else table.slice(0, end + 1)
            if end >= 0:
                return


def list_objects(output: Output, folders: Sequence[str], sample: KeySample, each: Each) -> Iterator[pa.Table]:
    """List all files below folders, hidden ones too, in tables with the schema ``LISTED`` and paths below the output.

    Args:
        output: The output.
        folders: Paths below it; "" for all of it.
        sample: Sample of the paths of its objects, of which some become boundaries.
        each: Lists the stretches.

    Raises:
        StorageError: A folder cannot be listed, or the store does not list in a fixed order.
    """
    boundaries = _boundaries(output, sample)
    stretches = [Stretch(folder, "") for folder in folders]
    for path in boundaries.to_pylist():
        for folder in folders:
            prefix = f"{folder}/" if folder else ""
            if (text := path.decode()).startswith(prefix):
                stretches.append(Stretch(folder, text[len(prefix) :]))
    met = 0
    for table in each(ListStretch(output, boundaries), stretches):
        met += pc.sum(pc.is_in(table["path"], value_set=boundaries)).as_py() or 0
        yield table
    if met != len(stretches) - len(folders):
        raise StorageError(f"the objects of {output.folder} changed while they were listed; run the command again")


def _boundaries(output: Output, sample: KeySample) -> pa.Array:
    """Return existing objects of the sample, evenly spaced: as many as there shall be stretches."""
    count = min(MAX_STRETCHES, sample.count // STRETCH) if output.files.can_scan_after(output.folder) else 0
    if not count:
        return pa.array([], pa.binary())
    # An index may name anything: a path that no listing shows as it is written would never be met.
    keys = sorted({key for key in sample.keys.to_pylist() if is_inside(text := key.decode()) and normpath(text) == text})
    places = np.unique(np.linspace(0, len(keys) - 1, count + 1).round().astype(int)[1:]) if keys else ()
    chosen = [keys[place] for place in places]
    with ThreadPoolExecutor(THREADS) as pool:
        exists = list(pool.map(lambda key: output.files.exists(output.layout.uri(key.decode())), chosen))
    return pa.array([key for key, is_there in zip(chosen, exists, strict=True) if is_there], pa.binary())


def without_hidden(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Leave out hidden files."""
    for table in tables:
        yield table.filter(pc.invert(pc.match_substring_regex(table["path"], HIDDEN)))
