"""The index: written in parts, read as one, one row an item."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipeline.config.job import Storage
from pipeline.errors import StorageError, WriteError
from pipeline.manifest.id_set import contains, hash_ids
from pipeline.output import index as index_module
from pipeline.output.index import compact, done_ids, read_index, recipes, reconcile, summarise, worst, write_part
from pipeline.output.layout import Layout
from pipeline.schema import INDEX, index_schema
from pipeline.storage.files import Files

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def part(ids: list[str], minute: int = 0, **columns: Any) -> pa.Table:
    """Rows of the index; every column not given is filled plausibly."""
    rows = [
        {
            "item_id": item_id,
            "status": "ok",
            "image_uri": f"/in/{item_id}.jpg",
            "mask_uri": f"/out/{item_id}.png",
            "cutout_uri": f"/out/{item_id}.png",
            "quality": 0.9,
            "quality_calibrated": False,
            "reasons": [],
            "run_id": f"run-{minute}",
            "finished_at": NOON + timedelta(minutes=minute),
            **{name: values[row] for name, values in columns.items()},
        }
        for row, item_id in enumerate(ids)
    ]
    return pa.Table.from_pylist(rows, INDEX)


@pytest.fixture
def layout(where: Any) -> Layout:
    return Layout(where.root, "recipe-0123456789ab")


def stored(layout: Layout, files: Files, folder: str = "") -> dict[str, list[str]]:
    """Item ids by part name, read without the code under test's own reader."""
    return {
        info.uri.rpartition("/")[2]: pq.read_table(io.BytesIO(files.read(info.uri)))["item_id"].to_pylist()
        for info in files.list(folder or layout.index)
    }


def plain_read(layout: Layout, files: Files) -> list[dict[str, Any]]:
    tables = [pq.read_table(io.BytesIO(files.read(info.uri))) for info in files.list(layout.index)]
    return sorted(pa.concat_tables(tables).to_pylist(), key=lambda row: str(row["item_id"]))


def test_what_was_committed_is_done_and_keeps_its_meaning(where: Any, layout: Layout) -> None:
    table = part(["b", "a"]).append_column(pa.field("sku", pa.int64()), [[1, 2]])
    table = table.cast(index_schema(pa.schema([("sku", pa.int64())])))
    uri = write_part(layout, table, where.files)
    assert uri == layout.part(["a", "b"])
    assert write_part(layout, table, where.files) == uri
    write_part(layout, part(["c"]), where.files)
    schema = pq.read_schema(io.BytesIO(where.files.read(uri)))
    assert schema.equals(table.schema)
    assert [field.metadata for field in schema] == [field.metadata for field in table.schema]
    assert schema.metadata[b"matteline.index"] == b"1"
    assert schema.field("quality").metadata[b"about"]
    assert pq.ParquetFile(io.BytesIO(where.files.read(uri))).metadata.row_group(0).column(0).compression == "ZSTD"
    done = done_ids(layout, where.files)
    assert contains(done, hash_ids(pa.array(["a", "d", "c", "b"]))).tolist() == [True, False, True, True]
    assert sorted(name for table in read_index(layout, where.files) for name in table["item_id"].to_pylist()) == ["a", "b", "c"]
    assert {tuple(table.column_names) for table in read_index(layout, where.files, ["quality"])} == {("quality",)}


def test_an_index_that_is_not_there_is_empty(where: Any, layout: Layout) -> None:
    assert not len(done_ids(layout, where.files))
    assert list(read_index(layout, where.files)) == []
    assert reconcile(layout, where.files) == 0
    summary = summarise(layout, where.files)
    assert (summary.counts, summary.failures, summary.quality_deciles, summary.calibrated) == ({}, {}, (), False)
    assert worst(layout, where.files, 3) == []
    assert recipes(where.root, where.files) == []


def test_failures_are_done_unless_asked_for_again(where: Any, layout: Layout) -> None:
    codes = [None, "fetch", "decode"]
    write_part(layout, part(["ok", "f", "d"], error_code=codes, status=["ok", "failed", "failed"]), where.files)
    asked = hash_ids(pa.array(["ok", "f", "d"]))
    assert contains(done_ids(layout, where.files), asked).tolist() == [True, True, True]
    assert contains(done_ids(layout, where.files, again={"fetch"}), asked).tolist() == [True, False, True]


def test_the_newest_row_of_an_item_stays(where: Any, layout: Layout) -> None:
    write_part(layout, part(["a", "b", "c"], minute=1), where.files)
    write_part(layout, part(["c", "d"], minute=3), where.files)
    write_part(layout, part(["d"], minute=2), where.files)
    write_part(layout, part(["e", "f"], minute=9), where.files)
    before = plain_read(layout, where.files)
    assert len(before) == 8

    assert reconcile(layout, where.files) == 2

    assert sorted(map(sorted, stored(layout, where.files).values())) == [["a", "b"], ["c", "d"], ["e", "f"]]
    rows = plain_read(layout, where.files)
    assert [(row["item_id"], row["run_id"]) for row in rows] == [
        *(("a", "run-1"), ("b", "run-1"), ("c", "run-3"), ("d", "run-3"), ("e", "run-9"), ("f", "run-9")),
    ]
    assert all(row in before for row in rows)
    moved = stored(layout, where.files, layout.superseded)
    assert sorted(map(sorted, moved.values())) == [["a", "b", "c"], ["d"]]
    assert reconcile(layout, where.files) == 0
    assert len(done_ids(layout, where.files)) == 6


def test_equal_times_and_rows_twice_in_one_part_still_leave_one_row(where: Any, layout: Layout) -> None:
    write_part(layout, part(["a", "a", "b"], minute=1), where.files)
    write_part(layout, part(["a", "c"], minute=1), where.files)
    assert reconcile(layout, where.files) == 2
    assert [row["item_id"] for row in plain_read(layout, where.files)] == ["a", "b", "c"]


def test_a_part_that_shrinks_to_the_name_of_a_losing_part(where: Any, layout: Layout) -> None:
    """{a, b} and {a} with the newer row in the first; b newer elsewhere: what stays of the first is named like the second."""
    write_part(layout, part(["a", "b"], minute=5), where.files)
    write_part(layout, part(["a"], minute=1), where.files)
    write_part(layout, part(["b", "x"], minute=7), where.files)
    assert reconcile(layout, where.files) == 2
    assert [(row["item_id"], row["run_id"]) for row in plain_read(layout, where.files)] == [
        ("a", "run-5"),
        ("b", "run-7"),
        ("x", "run-7"),
    ]


@pytest.mark.parametrize("steps", range(8))
def test_no_row_is_lost_wherever_reconciling_is_cut_off(local: Any, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    layout = Layout(local.root, "r")
    write_part(layout, part(["a", "b", "c"], minute=1), local.files)
    write_part(layout, part(["c", "d"], minute=3), local.files)
    write_part(layout, part(["d"], minute=2), local.files)
    left = steps

    def counted(real: Any) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal left
            if left == 0:
                raise WriteError("cut off")
            left -= 1
            return real(*arguments)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(Files, "write", counted(Files.write))
        patched.setattr(Files, "delete", counted(Files.delete))
        if steps < 5:  # two copies, one new part, two removals
            with pytest.raises((StorageError, WriteError)):
                reconcile(layout, local.files)
        else:
            assert reconcile(layout, local.files) == 2
    assert {row["item_id"] for row in plain_read(layout, local.files)} == {"a", "b", "c", "d"}
    reconcile(layout, local.files)
    assert [(row["item_id"], row["run_id"]) for row in plain_read(layout, local.files)] == [
        *(("a", "run-1"), ("b", "run-1"), ("c", "run-3"), ("d", "run-3")),
    ]


def test_a_summary_counts_everything(where: Any, layout: Layout) -> None:
    quality = np.linspace(0, 1, 11).tolist()
    first = part([str(number) for number in range(11)], quality=quality, reasons=[["soft edges"]] * 3 + [[]] * 8)
    write_part(layout, first, where.files)
    failed = part(
        ["x", "y", "z"],
        status=["failed"] * 3,
        error_code=["fetch", "decode", "fetch"],
        error_detail=["gone", "no image", None],
        quality=[None] * 3,
        quality_calibrated=[None] * 3,
        reasons=[None] * 3,
    )
    write_part(layout, failed, where.files)
    summary = summarise(layout, where.files)
    assert summary.counts == {"ok": 11, "failed": 3}
    assert {code: entry.count for code, entry in summary.failures.items()} == {"fetch": 2, "decode": 1}
    assert (summary.failures["decode"].item_id, summary.failures["decode"].detail) == ("y", "no image")
    assert summary.reasons == {"soft edges": 3}
    assert summary.quality_deciles == pytest.approx(quality)
    assert sum(summary.quality_histogram) == 11
    assert summary.quality_histogram[0] == 1 and summary.quality_histogram[-1] == 1
    assert not summary.calibrated
    write_part(Layout(where.root, "other"), part(["a"], quality_calibrated=[True]), where.files)
    assert summarise(Layout(where.root, "other"), where.files).calibrated


def test_the_worst_come_first_and_failures_not_at_all(where: Any, layout: Layout) -> None:
    write_part(layout, part(["a", "b", "c"], quality=[0.3, 0.9, None], mask_uri=["/m", "/m", None]), where.files)
    write_part(layout, part(["d", "e"], quality=[0.1, 0.3]), where.files)
    assert [row["item_id"] for row in worst(layout, where.files, 3)] == ["d", "a", "e"]
    assert set(worst(layout, where.files, 1)[0]) >= {"image_uri", "box", "mask_uri", "cutout_uri", "quality", "reasons"}


def test_recipes_are_the_folders_with_an_index_or_a_recipe(where: Any) -> None:
    write_part(Layout(where.root, "one"), part(["a"]), where.files)
    where.files.write(Layout(where.root, "two").recipe, b"{}")
    where.put("masks/x.png", b"")
    assert recipes(where.root, where.files) == [f"{where.root}/one", f"{where.root}/two"]
    assert recipes(f"{where.root}/one", where.files) == [f"{where.root}/one"]


def test_large_parts_are_read_by_column(where: Any, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    write_part(layout, part(["a", "b"]), where.files)
    monkeypatch.setattr(index_module, "WHOLE_BYTES", 10)
    assert len(done_ids(layout, where.files)) == 2
    assert summarise(layout, where.files).counts == {"ok": 2}


def test_many_parts_in_order(local: Any) -> None:
    layout = Layout(local.root, "r")
    for number in range(100):
        write_part(layout, part([f"{number}"]), local.files)
    assert len(done_ids(layout, local.files)) == 100
    ids = [table["item_id"][0].as_py() for table in read_index(layout, local.files)]
    assert ids == [pq.read_table(info.uri)["item_id"][0].as_py() for info in local.files.list(layout.index)]


def test_damaged_and_forbidden_parts_stop_the_run(where: Any, layout: Layout, s3: Any) -> None:
    uri = write_part(layout, part(["a"]), where.files)
    where.files.write(uri, where.files.read(uri)[:-20])
    for ask in (done_ids, summarise, reconcile, lambda *place: list(read_index(*place))):
        with pytest.raises(StorageError, match=r"part-.*is damaged; remove it"):
            ask(layout, where.files)
    if where.kind == "s3":
        reader = Files(Storage(**(s3.settings | {"key": s3.reader_key, "secret": s3.reader_secret})))
        with pytest.raises(StorageError, match="permission"):
            write_part(layout, part(["b"]), reader)


def test_pyarrow_reads_the_whole_index_as_one_table(local: Any) -> None:
    layout = Layout(local.root, "r")
    write_part(layout, part(["a"]), local.files)
    write_part(layout, part(["b"]), local.files)
    table = ds.dataset(layout.index, format="parquet").to_table()
    assert sorted(table["item_id"].to_pylist()) == ["a", "b"]
    assert table.schema.names == INDEX.names


def test_many_small_parts_become_few(where: Any, layout: Layout) -> None:
    for number in range(5):
        extra = {"title": [str(number)] * 3} if number == 4 else {}
        table = part([f"item-{number}-{row}" for row in range(3)], number)
        for name, values in extra.items():  # the manifest has grown a column
            table = table.append_column(name, pa.array(values))
        write_part(layout, table, where.files)
    before = sorted(id_ for ids in stored(layout, where.files).values() for id_ in ids)
    assert compact(layout, where.files, above=5) == 0
    assert len(stored(layout, where.files)) == 5
    assert compact(layout, where.files, above=4) == 5
    ((united, ids),) = stored(layout, where.files).items()
    assert sorted(ids) == before and len(before) == 15
    assert not list(where.files.list(layout.superseded))
    (table,) = read_index(layout, where.files)
    assert table["title"].to_pylist().count("4") == 3 and table["title"].null_count == 12
    assert compact(layout, where.files, above=0) == 1 and list(stored(layout, where.files)) == [united]


def test_parts_from_before_a_column_are_read_beside_new_ones(local: Any) -> None:
    layout = Layout(local.root, "r")
    write_part(layout, part(["a"]).drop_columns(["refiner_note"]), local.files)
    write_part(layout, part(["b"], refiner_note=["otherwise"]), local.files)
    assert {row.get("refiner_note") for table in read_index(layout, local.files) for row in table.to_pylist()} == {
        None,
        "otherwise",
    }
    assert sum(table.num_rows for table in read_index(layout, local.files, ["item_id", "refiner_note"])) == 2
    assert compact(layout, local.files, above=0) == 2
    (united,) = read_index(layout, local.files)
    assert sorted(zip(united["item_id"].to_pylist(), united["refiner_note"].to_pylist(), strict=True)) == [
        ("a", None),
        ("b", "otherwise"),
    ]


def test_an_interrupted_union_is_mended(where: Any, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        write_part(layout, part([f"item-{number}-{row}" for row in range(3)], number), where.files)
    with monkeypatch.context() as patched:
        patched.setattr(Files, "delete", lambda *_: (_ for _ in ()).throw(StorageError("killed")))
        with pytest.raises(StorageError, match="killed"):
            compact(layout, where.files, above=0)
    assert sum(len(ids) for ids in stored(layout, where.files).values()) == 24
    reconcile(layout, where.files)
    ids = [id_ for some in stored(layout, where.files).values() for id_ in some]
    assert len(ids) == len(set(ids)) == 12


def test_the_later_run_wins_whatever_the_workers_clocks_say(where: Any, layout: Layout) -> None:
    """The earlier run's worker was five minutes ahead."""
    write_part(layout, part(["a", "b"], 5, run_id=["20260101T120000Z-0", "20260101T120000Z-0"]), where.files)
    write_part(layout, part(["a"], 1, run_id=["20260101T120200Z-0"]), where.files)
    assert reconcile(layout, where.files) == 1
    rows = pa.concat_tables(read_index(layout, where.files)).sort_by("item_id").to_pylist()
    assert [(row["item_id"], row["run_id"]) for row in rows] == [("a", "20260101T120200Z-0"), ("b", "20260101T120000Z-0")]


def test_a_kept_rest_may_take_the_name_of_a_part_that_goes(where: Any, layout: Layout) -> None:
    """{a, b} keeps a; a part {a} of an older run, which is to go, has just that name."""
    write_part(layout, part(["a"], 1), where.files)
    write_part(layout, part(["a", "b"], 2), where.files)
    write_part(layout, part(["b"], 3), where.files)
    assert reconcile(layout, where.files) == 2
    rows = pa.concat_tables(read_index(layout, where.files)).sort_by("item_id").to_pylist()
    assert [(row["item_id"], row["run_id"]) for row in rows] == [("a", "run-2"), ("b", "run-3")]
    assert reconcile(layout, where.files) == 0
