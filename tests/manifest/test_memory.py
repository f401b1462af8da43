"""Reading a manifest takes bounded memory, however much it expands."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from pipeline.manifest.manifest import open_manifest, read, scan
from pipeline.storage.files import Files

PEAK_MIB = 400

MEASURE = """
import json, os, sys
from pathlib import Path
from pipeline.errors import PipelineError
from pipeline.manifest.manifest import open_manifest, scan
from pipeline.storage.files import Files

def measure(path):
    try:
        said = str(scan(open_manifest(path, Files()), Files()).rows)
    except PipelineError as error:
        said = str(error)
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps([said, int(peak.split()[1]) / 1024]), flush=True)

for line in sys.stdin:
    child = os.fork()  # nothing has started a thread yet
    if not child:
        measure(line.strip())
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print(json.dumps(["the process has ended", 0]), flush=True)
"""
"""Read the manifests that stdin names, each in a fork of a process that has imported all. Print what is said, and the peak."""


ROWS = 8192
NAMES = [f"{row}.jpg" for row in range(ROWS)]


def repeated(value: pa.Array, rows: int = ROWS) -> pa.Array:
    """A column of one value, which is in memory and in the file once."""
    return pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), value)


def boxes_in_parquet(path: Path) -> None:
    count = 147
    corners = pa.array(np.tile([0.0, 0.0, 9.0, 9.0], ROWS * count))
    boxes = pa.ListArray.from_arrays(np.arange(ROWS * count + 1, dtype=np.int32) * 4, corners)
    column = pa.ListArray.from_arrays(np.arange(ROWS + 1, dtype=np.int32) * count, boxes)
    pq.write_table(pa.table({"image_uri": NAMES, "boxes": column}), path, compression="zstd")


def boxes_as_text(path: Path) -> None:
    text = pa.array([json.dumps([[0, 0, 9, 9]] * 60)])
    pq.write_table(pa.table({"image_uri": NAMES, "boxes": repeated(text)}), path, store_schema=False)


def one_image_of_many_boxes(path: Path) -> None:
    corners = pa.array(np.tile([0.0, 0.0, 9.0, 9.0], 1_000_000))
    boxes = pa.ListArray.from_arrays(np.arange(1_000_001, dtype=np.int32) * 4, corners)
    pq.write_table(pa.table({"image_uri": ["a.jpg"], "boxes": pa.ListArray.from_arrays([0, 1_000_000], boxes)}), path)


def repeated_cells(path: Path) -> None:
    cells = repeated(pa.array(["x" * 100_000]))
    pq.write_table(pa.table({"image_uri": NAMES, "title": cells}), path, store_schema=False)


def compressed_cells(path: Path) -> None:
    table = pa.table({"image_uri": NAMES[:1024], "title": ["x" * 500_000] * 1024})
    pq.write_table(table, path, use_dictionary=False, compression="zstd", row_group_size=512)


def long_addresses(path: Path) -> None:
    texts = pa.array(["x" * 100_000 + str(number) for number in range(3)])
    column = pa.DictionaryArray.from_arrays(np.arange(ROWS, dtype=np.int32) % 3, texts)
    pq.write_table(pa.table({"image_uri": column}), path, store_schema=False)


def nested_columns(path: Path) -> None:
    tags = pa.array([[["t"] * 20] * 50])
    pq.write_table(pa.table({"image_uri": NAMES, "tags": pa.concat_arrays([tags] * ROWS)}), path)


LONG = gzip.compress(b"x" * 2_000_000, 1)


def write_members(path: Path, *texts: str) -> None:
    """Write texts as members of a gzip file, one after the other. An x stands for two million, which are compressed once."""
    path.write_bytes(b"".join(LONG if text == "x" else gzip.compress(text.encode(), 1) for text in texts))


def one_long_line(path: Path) -> None:
    write_members(path, '{"image_uri": "a.jpg", "title": "', *["x"] * 300, '"}')


def many_long_lines(path: Path) -> None:
    write_members(path, *(text for row in range(250) for text in (f'{{"image_uri": "{row}.jpg", "title": "', "x", '"}\n')))


def long_cells_in_csv(path: Path) -> None:
    write_members(path, "image_uri,title\n", *(text for row in range(250) for text in (f"{row}.jpg,", "x", "\n")))


def one_long_row_of_csv(path: Path) -> None:
    write_members(path, "image_uri,title\na.jpg,", *["x"] * 300)


@pytest.fixture(scope="module")
def measure() -> Iterator[Callable[[Path], tuple[str, float]]]:
    """``measure(path)``: what is said about a manifest, and the peak of a process that reads it, in MiB."""
    with subprocess.Popen([sys.executable, "-c", MEASURE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None

        def ask(path: Path) -> tuple[str, float]:
            print(path, file=process.stdin, flush=True)
            said, peak_mib = json.loads(process.stdout.readline())
            return said, peak_mib

        yield ask
        process.stdin.close()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize(
    ("make", "suffix", "said"),
    [
        (boxes_in_parquet, "parquet", str(8192 * 147)),
        (boxes_as_text, "parquet", str(8192 * 60)),
        (one_image_of_many_boxes, "parquet", "1"),
        (repeated_cells, "parquet", "8192"),
        (compressed_cells, "parquet", "in 512 rows of one row group; drop it, or write row groups of fewer rows"),
        (long_addresses, "parquet", "8192"),
        (nested_columns, "parquet", "8192"),
        (one_long_line, "jsonl.gz", "line 1 has more than 4194304 bytes; write one item per line"),
        (many_long_lines, "jsonl.gz", "250"),
        (long_cells_in_csv, "csv.gz", "250"),
        (
            one_long_row_of_csv,
            "csv.gz",
            "a row of this CSV file has more than 2097152 bytes; shorten its cells, or write Parquet",
        ),
    ],
)
def test_the_peak_of_a_scan_is_bounded(
    make: Callable[[Path], None], suffix: str, said: str, measure: Callable[[Path], tuple[str, float]], tmp_path: Path
) -> None:
    path = tmp_path / f"m.{suffix}"
    make(path)
    text, peak_mib = measure(path)
    assert text.endswith(said)
    assert 50 < peak_mib <= PEAK_MIB


def test_too_many_boxes_and_long_texts_fail_their_row(tmp_path: Path) -> None:
    rows = [
        {"image_uri": "a.jpg", "item_id": "a", "boxes": [[0.0, 0.0, 9.0, 9.0]] * 10_001},
        {"image_uri": "b.jpg", "item_id": "x" * 9000, "boxes": None},
        {"image_uri": "y" * 9000, "item_id": "c", "boxes": None},
        {"image_uri": "d.jpg", "item_id": "d", "boxes": [[0.0, 0.0, 9.0, 9.0]]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    manifest = open_manifest(str(tmp_path / "m.parquet"), Files())
    items = pa.concat_tables(read(manifest, manifest.fragments[0], Files())).to_pylist()
    assert [row["error_detail"] and row["error_detail"].partition(";")[0] for row in items] == [
        "boxes has 10001 boxes",
        "item_id has 9000 characters",
        "image_uri has 9000 characters",
        None,
    ]
    assert scan(manifest, Files()).rows == 4


@pytest.mark.parametrize("name", ["title.long", "image"])
def test_large_cells_are_refused_in_every_column_that_is_read(name: str, tmp_path: Path) -> None:
    """Also in a column whose name has a dot, and in the paths of pictures."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    long = pa.array(["x" * 500_000] * 150)
    columns = {"image_uri": NAMES[:150], name: long}
    if name == "image":
        columns = {name: pa.StructArray.from_arrays([pa.nulls(150, pa.binary()), long], fields=list(kind))}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet", use_dictionary=False, compression="zstd")
    with pytest.raises(ConfigError, match=f"the column '{name}.* has 71 MiB in 150 rows of one row group"):
        scan(open_manifest(str(tmp_path / "m.parquet"), Files()), Files())


def test_a_line_of_the_largest_size_is_read(tmp_path: Path) -> None:
    row = json.dumps({"image_uri": "a.jpg", "title": ""})
    for more, fits in ((0, True), (1, False)):
        (tmp_path / "m.jsonl").write_text(row.replace('""', f'"{"x" * (4 * 2**20 - len(row) - 1 + more)}"') + "\n")
        if fits:
            assert scan(open_manifest(str(tmp_path / "m.jsonl"), Files()), Files()).rows == 1
        else:
            with pytest.raises(ConfigError, match="line 1 has more than"):
                open_manifest(str(tmp_path / "m.jsonl"), Files())
