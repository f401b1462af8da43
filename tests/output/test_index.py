"""The index is written in parts, read as one table, and has one row per item."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipeline.config.job import Storage
from pipeline.errors import ConfigError, StorageError, WriteError
from pipeline.manifest.id_set import contains, hash_ids, merge_ids
from pipeline.output import index as index_module
from pipeline.output.compaction import compact
from pipeline.output.index import (
    done_ids,
    drop_rows,
    ids_of_run,
    read_index,
    remove_unreadable_parts,
    tally,
    write_part,
)
from pipeline.output.output import Output, find_outputs, open_output
from pipeline.output.reconcile import reconcile
from pipeline.output.summary import Remarks, summarise, worst
from pipeline.quality.expectation import Expectation
from pipeline.schema import INDEX, index_schema
from pipeline.storage.files import Files

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
RECIPE = "0" * 64


def part(ids: list[str], minute: int = 0, **columns: Any) -> pa.Table:
    """Return index rows. Columns that are not given get plausible values."""
    rows = [
        {
            "item_id": item_id,
            "output_name": item_id,
            "status": "ok",
            "image_uri": f"/in/{item_id}.jpg",
            "mask_path": f"masks/{item_id}.png",
            "cutout_path": f"cutouts/{item_id}.png",
            "quality": 0.9,
            "quality_calibrated": False,
            "reasons": [],
            "recipe": RECIPE,
            "run_id": f"run-{minute}",
            "finished_at": NOON + timedelta(minutes=minute),
            **{name: values[row] for name, values in columns.items()},
        }
        for row, item_id in enumerate(ids)
    ]
    return pa.Table.from_pylist(rows, INDEX)


@pytest.fixture
def output(where: Any) -> Output:
    return Output.at(f"{where.root}/out", where.files)


def stored(output: Output, folder: str = "") -> dict[str, list[str]]:
    """Return item ids by part name, read with pyarrow alone."""
    return {
        info.uri.rpartition("/")[2]: pq.read_table(io.BytesIO(output.files.read(info.uri)))["item_id"].to_pylist()
        for info in output.files.list(folder or output.layout.index)
    }


def plain_read(output: Output) -> list[dict[str, Any]]:
    tables = [pq.read_table(io.BytesIO(output.files.read(info.uri))) for info in output.files.list(output.layout.index)]
    return sorted(pa.concat_tables(tables).to_pylist(), key=lambda row: str(row["item_id"]))


def test_committed_items_are_done_and_parts_keep_their_schema(output: Output) -> None:
    table = part(["b", "a"]).append_column(pa.field("sku", pa.int64()), [[1, 2]])
    table = table.cast(index_schema(pa.schema([("sku", pa.int64())])))
    uri = write_part(output, table)
    assert uri == output.layout.part(["a", "b"])
    assert write_part(output, table) == uri
    write_part(output, part(["c"]))
    schema = pq.read_schema(io.BytesIO(output.files.read(uri)))
    assert schema.equals(table.schema)
    assert [field.metadata for field in schema] == [field.metadata for field in table.schema]
    assert schema.metadata[b"matteline.index"] == b"2"
    assert schema.field("quality").metadata[b"about"]
    assert pq.ParquetFile(io.BytesIO(output.files.read(uri))).metadata.row_group(0).column(0).compression == "ZSTD"
    done, others = done_ids(output, RECIPE)
    assert not len(others)
    assert contains(done, hash_ids(pa.array(["a", "d", "c", "b"]))).tolist() == [True, False, True, True]
    assert sorted(name for table in read_index(output) for name in table["item_id"].to_pylist()) == ["a", "b", "c"]
    assert {tuple(table.column_names) for table in read_index(output, ["quality"])} == {("quality",)}


def test_a_missing_index_is_empty(output: Output) -> None:
    assert [len(ids) for ids in done_ids(output, RECIPE)] == [0, 0]
    assert list(read_index(output)) == []
    assert reconcile(output) == 0
    summary = summarise(output)
    assert (summary.counts, summary.failures, summary.quality_deciles, summary.calibrated) == ({}, {}, (), False)
    assert worst(output, 3) == []
    assert find_outputs(output.folder, output.files) == []


def test_failed_items_are_done_unless_their_code_is_retried(output: Output) -> None:
    codes = [None, "fetch", "decode"]
    write_part(output, part(["ok", "f", "d"], error_code=codes, status=["ok", "failed", "failed"]))
    asked = hash_ids(pa.array(["ok", "f", "d"]))
    assert contains(done_ids(output, RECIPE)[0], asked).tolist() == [True, True, True]
    done, others = done_ids(output, RECIPE, retry={"fetch"})
    assert contains(done, asked).tolist() == [True, False, True]
    assert contains(others, asked).tolist() == [False, True, False]


def test_items_with_two_rows_are_not_missing(output: Output) -> None:
    write_part(output, part(["a", "b"]))
    write_part(output, part(["a"], recipe=["1" * 64], status=["failed"]))
    ids = merge_ids([hash_ids(pa.array(["a", "b", "c"]))])
    assert tally(output, ids) == {"ok": 2, "failed": 1, "missing": 1}


def test_rows_of_another_recipe_are_not_done(output: Output) -> None:
    write_part(output, part(["a", "b"], recipe=[RECIPE, "1" * 64]))
    write_part(output, part(["c"], recipe=[None]))
    asked = hash_ids(pa.array(["a", "b", "c"]))
    done, others = done_ids(output, RECIPE)
    assert contains(done, asked).tolist() == [True, False, False]
    assert contains(others, asked).tolist() == [False, True, True]
    assert others.tolist() == sorted(others.tolist())


def test_the_items_of_a_run(output: Output) -> None:
    write_part(output, part(["a", "b"], run_id=["r1", "r2"]))
    write_part(output, part(["c", "d"], run_id=["r2", None]))
    asked = hash_ids(pa.array(["a", "b", "c", "d"]))
    assert contains(ids_of_run(output, "r2"), asked).tolist() == [False, True, True, False]
    assert not len(ids_of_run(output, "r3"))


def test_dropped_rows_move_out_of_the_index(output: Output) -> None:
    write_part(output, part(["a", "b"], 1))
    write_part(output, part(["c"], 2))
    write_part(output, part(["d"], 3))
    before = plain_read(output)
    assert drop_rows(output, np.sort(hash_ids(pa.array(["b", "c", "nobody"])))) == 2
    assert plain_read(output) == [row for row in before if row["item_id"] in ("a", "d")]
    assert sorted(map(sorted, stored(output, output.layout.superseded).values())) == [["a", "b"], ["c"]]
    assert drop_rows(output, hash_ids(pa.array([], pa.string()))) == 0


def test_reconcile_keeps_the_newest_row_of_an_item(output: Output) -> None:
    write_part(output, part(["a", "b", "c"], minute=1))
    write_part(output, part(["c", "d"], minute=3))
    write_part(output, part(["d"], minute=2))
    write_part(output, part(["e", "f"], minute=9))
    before = plain_read(output)
    assert len(before) == 8

    assert reconcile(output) == 2

    assert sorted(map(sorted, stored(output).values())) == [["a", "b"], ["c", "d"], ["e", "f"]]
    rows = plain_read(output)
    assert [(row["item_id"], row["run_id"]) for row in rows] == [
        *(("a", "run-1"), ("b", "run-1"), ("c", "run-3"), ("d", "run-3"), ("e", "run-9"), ("f", "run-9")),
    ]
    assert all(row in before for row in rows)
    moved = stored(output, output.layout.superseded)
    assert sorted(map(sorted, moved.values())) == [["a", "b", "c"], ["d"]]
    assert reconcile(output) == 0
    assert len(done_ids(output, RECIPE)[0]) == 6


def test_reconcile_leaves_one_row_for_equal_times_and_duplicates_in_one_part(output: Output) -> None:
    write_part(output, part(["a", "a", "b"], minute=1))
    write_part(output, part(["a", "c"], minute=1))
    assert reconcile(output) == 2
    assert [row["item_id"] for row in plain_read(output)] == ["a", "b", "c"]


@pytest.mark.parametrize("minutes", [(5, 1, 7), (2, 1, 3)])
def test_the_remaining_rows_of_a_part_may_take_the_name_of_a_replaced_part(
    output: Output, minutes: tuple[int, int, int]
) -> None:
    """Of {a, b} only a stays, since b has a newer row. The older part {a} has the name of that rest."""
    first, older, newer = minutes
    write_part(output, part(["a", "b"], first))
    write_part(output, part(["a"], older))
    write_part(output, part(["b", "x"], newer))
    assert reconcile(output) == 2
    runs = [("a", f"run-{first}"), ("b", f"run-{newer}"), ("x", f"run-{newer}")]
    assert [(row["item_id"], row["run_id"]) for row in plain_read(output)] == runs
    assert reconcile(output) == 0


@pytest.mark.parametrize("steps", range(8))
def test_an_interrupted_reconcile_loses_no_row(local: Any, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    output = Output.at(f"{local.root}/r", local.files)
    write_part(output, part(["a", "b", "c"], minute=1))
    write_part(output, part(["c", "d"], minute=3))
    write_part(output, part(["d"], minute=2))
    remaining = steps

    def counted(real: Any) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal remaining
            if remaining == 0:
                raise WriteError("interrupted")
            remaining -= 1
            return real(*arguments)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(Files, "write", counted(Files.write))
        patched.setattr(Files, "delete", counted(Files.delete))
        if steps < 5:  # two copies, one new part, two removals
            with pytest.raises((StorageError, WriteError)):
                reconcile(output)
        else:
            assert reconcile(output) == 2
    assert {row["item_id"] for row in plain_read(output)} == {"a", "b", "c", "d"}
    reconcile(output)
    assert [(row["item_id"], row["run_id"]) for row in plain_read(output)] == [
        *(("a", "run-1"), ("b", "run-1"), ("c", "run-3"), ("d", "run-3")),
    ]


def test_a_summary_counts_everything(output: Output) -> None:
    quality = np.linspace(0, 1, 11).tolist()
    first = part([str(number) for number in range(11)], quality=quality, reasons=[["soft edges"]] * 3 + [[]] * 8)
    write_part(output, first)
    failed = part(
        ["x", "y", "z"],
        status=["failed"] * 3,
        error_code=["fetch", "decode", "fetch"],
        error_detail=["gone", "no image", None],
        quality=[None] * 3,
        quality_calibrated=[None] * 3,
        reasons=[None] * 3,
    )
    write_part(output, failed)
    summary = summarise(output)
    assert summary.counts == {"ok": 11, "failed": 3}
    assert {code: entry.count for code, entry in summary.failures.items()} == {"fetch": 2, "decode": 1}
    assert (summary.failures["decode"].item_id, summary.failures["decode"].detail) == ("y", "no image")
    assert summary.reasons == {"soft edges": 3}
    assert summary.quality_deciles == pytest.approx(quality)
    assert sum(summary.quality_histogram) == 11
    assert summary.quality_histogram[0] == 1 and summary.quality_histogram[-1] == 1
    assert not summary.calibrated
    other = Output.at(f"{output.folder}/other", output.files)
    write_part(other, part(["a"], quality_calibrated=[True]))
    assert summarise(other).calibrated


def test_remarks_are_counted_by_rendition(output: Output) -> None:
    def made(name: str, note: str | None) -> dict[str, Any]:
        return {"name": name, "path": f"{name}/x.jpg", "note": note}

    plain = "no shadow: the ground beside the object is not plain"
    rows = [
        [made("natural-shadow", plain), made("white", None)],
        [made("natural-shadow", f"{plain}; enlarged 1.3 times"), made("white", None)],
        [made("natural-shadow", None), made("white", None)],
        None,
    ]
    write_part(output, part(["a", "b", "c", "d"], renditions=rows))
    write_part(output, part(["e"], renditions=[[made("natural-shadow", f"{plain}; enlarged 2.0 times")]]))
    write_part(output, part(["f"]))
    remarks = summarise(output).remarks
    assert remarks == {"natural-shadow": Remarks(4, 3, {plain: 3, "enlarged … times": 2})}


def test_the_expectation_is_of_ok_items_with_a_calibrated_quality(output: Output) -> None:
    assert summarise(output).expected == Expectation()
    columns = {"quality": [0.9, 0.6, 0.2, None, 0.8]}
    columns |= {"status": ["ok", "ok", "review", "failed", "ok"], "quality_calibrated": [True, True, True, None, False]}
    write_part(output, part(["a", "b", "c", "d", "e"], **columns))
    write_part(output, part(["f"], quality=[0.5], quality_calibrated=[True]))
    expected = summarise(output).expected
    assert (expected.items, expected.mean, expected.variance) == pytest.approx((3, 0.1 + 0.4 + 0.5, 0.09 + 0.24 + 0.25))


def test_worst_rows_are_sorted_and_exclude_failures(output: Output) -> None:
    write_part(output, part(["a", "b", "c"], quality=[0.3, 0.9, None], mask_path=["masks/a.png", "masks/b.png", None]))
    write_part(output, part(["d", "e"], quality=[0.1, 0.3]))
    assert [row["item_id"] for row in worst(output, 3)] == ["d", "a", "e"]
    assert set(worst(output, 1)[0]) >= {"image_uri", "box", "mask_path", "cutout_path", "quality", "reasons"}


def test_outputs_are_the_folders_with_recorded_settings(where: Any) -> None:
    one, two, three = (Output.at(f"{where.root}/{name}", where.files) for name in ("one", "two", "three"))
    write_part(three, part(["a"]))
    for output in (one, two):
        where.files.write(output.layout.recipe, b"{}")
    assert find_outputs(where.root, where.files) == [one, two]
    assert find_outputs(one.folder, where.files) == [one]
    assert open_output(one.folder, where.files) == one
    with pytest.raises(ConfigError, match="holds 2 outputs; name one of them: .*one, .*two"):
        open_output(where.root, where.files)
    with pytest.raises(ConfigError, match="no results under .*three; run matteline run --output"):
        open_output(three.folder, where.files)


def test_an_output_travels_to_other_processes(output: Output) -> None:
    assert pickle.loads(pickle.dumps(output)) == output


def test_large_parts_are_read_by_column(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    write_part(output, part(["a", "b"]))
    monkeypatch.setattr(index_module, "ONE_REQUEST_BYTES", 10)
    assert len(done_ids(output, RECIPE)[0]) == 2
    assert summarise(output).counts == {"ok": 2}


def test_many_parts_in_order(local: Any) -> None:
    output = Output.at(f"{local.root}/r", local.files)
    for number in range(100):
        write_part(output, part([f"{number}"]))
    assert len(done_ids(output, RECIPE)[0]) == 100
    ids = [table["item_id"][0].as_py() for table in read_index(output)]
    assert ids == [pq.read_table(info.uri)["item_id"][0].as_py() for info in output.parts()]


def test_damaged_and_forbidden_parts_stop_the_run(where: Any, output: Output, s3: Any) -> None:
    uri = write_part(output, part(["a"]))
    output.files.write(uri, output.files.read(uri)[:-20])
    for read in (lambda output: done_ids(output, RECIPE), summarise, reconcile, lambda output: list(read_index(output))):
        with pytest.raises(StorageError, match=r"part-.*is damaged; run matteline verify --repair"):
            read(output)
    if where.kind == "s3":
        reader = Files(Storage(**(s3.settings | {"key": s3.reader_key, "secret": s3.reader_secret})))
        with pytest.raises(StorageError, match="permission"):
            write_part(Output(output.layout, reader), part(["b"]))


def test_a_reader_during_a_compaction_is_told_to_read_again(output: Output) -> None:
    for number in range(40):
        write_part(output, part([f"item-{number}"], number))
    reader = read_index(output, ["item_id"])
    next(reader)
    assert compact(output) == 40
    with pytest.raises(StorageError, match=r"a run merged .*part-.* while this command read"):
        list(reader)
    assert sum(rows.num_rows for rows in read_index(output)) == 40


def test_unreadable_parts_can_be_removed(output: Output) -> None:
    whole, cut = write_part(output, part(["a"])), write_part(output, part(["b"]))
    data = output.files.read(cut)[:-20]
    output.files.write(cut, data)
    assert remove_unreadable_parts(output) == [cut]
    assert [info.uri for info in output.parts()] == [whole]
    (moved,) = output.files.list(output.layout.superseded)
    assert output.files.read(moved.uri) == data


def test_pyarrow_reads_the_whole_index_as_one_table(local: Any) -> None:
    output = Output.at(f"{local.root}/r", local.files)
    write_part(output, part(["a"]))
    write_part(output, part(["b"]))
    table = ds.dataset(output.layout.index, format="parquet").to_table()
    assert sorted(table["item_id"].to_pylist()) == ["a", "b"]
    assert table.schema.names == INDEX.names


def test_compact_merges_small_parts(output: Output) -> None:
    for number in range(5):
        extra = {"title": [str(number)] * 3} if number == 4 else {}
        table = part([f"item-{number}-{row}" for row in range(3)], number)
        for name, values in extra.items():  # the manifest has grown a column
            table = table.append_column(name, pa.array(values))
        write_part(output, table)
    before = sorted(id_ for ids in stored(output).values() for id_ in ids)
    assert compact(output, above=5) == 0
    assert len(stored(output)) == 5
    assert compact(output, above=4) == 5
    ((merged, ids),) = stored(output).items()
    assert sorted(ids) == before and len(before) == 15
    assert not list(output.files.list(output.layout.superseded))
    (table,) = read_index(output)
    assert table["title"].to_pylist().count("4") == 3 and table["title"].null_count == 12
    assert compact(output, above=0) == 1 and list(stored(output)) == [merged]


def test_parts_without_a_newer_column_are_read_with_nulls(local: Any) -> None:
    output = Output.at(f"{local.root}/r", local.files)
    write_part(output, part(["a"]).drop_columns(["image_version"]))
    write_part(output, part(["b"], image_version=["otherwise"]))
    assert {row.get("image_version") for table in read_index(output) for row in table.to_pylist()} == {
        None,
        "otherwise",
    }
    assert sum(table.num_rows for table in read_index(output, ["item_id", "image_version"])) == 2
    assert compact(output, above=0) == 2
    (merged,) = read_index(output)
    assert sorted(zip(merged["item_id"].to_pylist(), merged["image_version"].to_pylist(), strict=True)) == [
        ("a", None),
        ("b", "otherwise"),
    ]


def test_reconcile_repairs_an_interrupted_compaction(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        write_part(output, part([f"item-{number}-{row}" for row in range(3)], number))
    with monkeypatch.context() as patched:
        patched.setattr(Files, "delete", lambda *_: (_ for _ in ()).throw(StorageError("killed")))
        with pytest.raises(StorageError, match="killed"):
            compact(output, above=0)
    assert sum(len(ids) for ids in stored(output).values()) == 24
    reconcile(output)
    ids = [id_ for some in stored(output).values() for id_ in some]
    assert len(ids) == len(set(ids)) == 12


def test_the_later_run_wins_whatever_the_clocks_say(output: Output) -> None:
    """The clock of the earlier run's worker is five minutes ahead."""
    write_part(output, part(["a", "b"], 5, run_id=["20260101T120000Z-0", "20260101T120000Z-0"]))
    write_part(output, part(["a"], 1, run_id=["20260101T120200Z-0"]))
    assert reconcile(output) == 1
    rows = pa.concat_tables(read_index(output)).sort_by("item_id").to_pylist()
    assert [(row["item_id"], row["run_id"]) for row in rows] == [("a", "20260101T120200Z-0"), ("b", "20260101T120000Z-0")]


def test_a_foreign_parquet_file_among_the_parts_is_named(where: Any) -> None:
    output = Output.at(f"{where.root}/out", where.files)
    write_part(output, part(["a"], 1))
    sink = io.BytesIO()
    pq.write_table(pa.table({"x": [1, 2]}), sink)
    where.put("out/index/part-foreign.parquet", sink.getvalue())
    for step in (
        lambda: list(read_index(output)),
        lambda: list(read_index(output, ["item_id"])),
        lambda: done_ids(output, "r"),
    ):
        with pytest.raises(StorageError, match=r"part-foreign.parquet is damaged"):
            step()
    assert [uri.rpartition("/")[2] for uri in remove_unreadable_parts(output)] == ["part-foreign.parquet"]
    assert [rows["item_id"].to_pylist() for rows in read_index(output)] == [["a"]]


def test_a_flipped_bit_is_noticed_or_without_effect(tmp_path: Path) -> None:
    """Without checksums a third of the flips give other values."""
    output = Output.at(str(tmp_path), Files())
    rows = [f"item-{number}" for number in range(200)]
    uri = Path(write_part(output, part(rows, 1)))
    sound, data, rng = pa.concat_tables(read_index(output)), uri.read_bytes(), np.random.default_rng(1)
    other = 0
    for _ in range(200):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        uri.write_bytes(damaged)
        try:
            found = pa.concat_tables(read_index(output))
        except StorageError:
            continue
        other += not found.equals(sound)
    assert other <= 4


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.append_column("width", rows["height"]),
        lambda rows: rows.set_column(rows.schema.get_field_index("status"), "status", pa.nulls(1, pa.string())),
        lambda rows: rows.set_column(rows.schema.get_field_index("status"), "status", pa.array(["fine"])),
        lambda rows: rows.set_column(0, "item_id", pa.nulls(1, pa.string())),
        lambda rows: rows.set_column(0, "item_id", pa.array([b"\xff"]).view(pa.string())),
        lambda rows: rows.drop_columns(["status"]),
    ],
)
def test_rows_that_no_run_writes_are_damage(local: Any, change: Callable[[pa.Table], pa.Table]) -> None:
    sink = io.BytesIO()
    pq.write_table(change(part(["a"])), sink)
    local.put("out/index/part-0.parquet", sink.getvalue())
    with pytest.raises(StorageError, match=r"part-0.parquet is damaged"):
        list(read_index(Output.at(f"{local.root}/out", local.files)))


def test_worst_rows_have_a_quality(local: Any) -> None:
    output = Output.at(f"{local.root}/out", local.files)
    paths = {f"{kind}_path": [f"{kind}s/a.png", f"{kind}s/b.png"] for kind in ("mask", "cutout")}
    write_part(output, part(["a", "b"], quality=[None, 0.5], **paths))
    assert [row["item_id"] for row in worst(output, 5)] == ["b"]
