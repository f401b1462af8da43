"""The graph on real Ray: sizes of tasks and batches, and what workers refuse."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipeline.config.job import load_job
from pipeline.errors import ConfigError, StorageError, WeightsError
from pipeline.output.counters import RunCounters
from pipeline.run.block_sizes import block_mib, rows_per_block, rows_per_part
from pipeline.run.cluster import with_cpu_actors
from pipeline.run.context import context_of
from pipeline.run.driver import run_job
from pipeline.run.graph import execute, graph, shards
from pipeline.run.ledger_actor import RayCrashLedger
from pipeline.run.pool import Pool
from pipeline.run.preflight import make_plan, without_done
from pipeline.run.stages.segment import SegmentBatch
from pipeline.storage.files import Files

pytestmark = pytest.mark.usefixtures("ray_session")
MakePhotos = Callable[..., list[Path]]
POOL = Pool(1, 0, 1, 1, "cpu")


def read_index(folder: str) -> list[dict[str, Any]]:
    return ds.dataset(f"{folder}/index", format="parquet").to_table().to_pylist()


@pytest.mark.parametrize(
    ("pool", "settings", "images", "calls", "rows"),
    [
        (Pool(1, 1, 0, 1, "cuda"), [], 4, 2, 64),
        (POOL, [], 1, 1, 2),
        (POOL, ["compute.batch_size=3"], 3, 1, 6),
        (Pool(1, 1, 0, 1, "cuda"), ["compute.batch_size=9"], 9, 2, 64),
    ],
)
def test_a_batch_is_one_forward_pass_and_a_gpu_has_the_next_one_at_hand(
    pool: Pool,
    settings: list[str],
    images: int,
    calls: int,
    rows: int,
    tmp_path: Path,
    make_photos: MakePhotos,
    fake_preset: str,
) -> None:
    make_photos(tmp_path / "photos", 1)
    where = {"manifest": str(tmp_path / "photos"), "output": str(tmp_path / "out"), "preset": fake_preset}
    job = load_job(**where, overrides=["recipe.frame_px=1024", *settings])
    files = Files(job.storage)
    plan = make_plan(job, files)
    stage = graph(next(shards(plan, pool)), pool, context_of(plan, pool, "run", RayCrashLedger.start()))._logical_plan.dag
    while getattr(stage, "fn", None) is not SegmentBatch:
        (stage,) = stage.input_dependencies
    assert stage.batch_size == images
    (context,) = stage.fn_constructor_args
    assert context.batch_size == images
    assert stage.compute.max_concurrent_calls_per_actor == calls
    assert rows_per_block(replace(plan, todo=10_000), pool) == rows
    assert rows_per_block(replace(plan, todo=100_000_000), pool) == 4 * rows, "the driver keeps a record of every block"
    assert rows_per_block(replace(plan, todo=4 * images), pool) == images, "a full batch, as each actor gets four"
    assert rows_per_block(replace(plan, todo=3), pool) == min(2, images)


def test_a_small_parquet_manifest_becomes_many_tasks_and_pixels_never_wait_for_a_part(
    tmp_path: Path, make_photos: MakePhotos, fake_preset: str
) -> None:
    photos = make_photos(tmp_path / "photos", 20)
    pq.write_table(pa.table({"image_uri": [str(path) for path in photos]}), tmp_path / "manifest.parquet")
    settings = ["compute.rows_per_block=2", "compute.rows_per_part=10"]
    job = load_job(
        manifest=str(tmp_path / "manifest.parquet"), output=str(tmp_path / "out"), preset=fake_preset, overrides=settings
    )
    files = Files(job.storage)
    plan = make_plan(job, files)
    made = graph(next(shards(plan, POOL)), POOL, context_of(plan, POOL, "run", RayCrashLedger.start())).materialize()
    tasks = {names: int(count) for names, count in re.findall(r"Operator \d+ (.*?): (\d+) tasks executed", made.stats())}
    decode = next(count for names, count in tasks.items() if "decode_batch" in names)
    assert decode == 10, tasks
    for stage in ("SegmentBatch", "write_batch", "commit_batch"):
        alone = [names for names in tasks if stage in names]
        assert len(alone) == 1 and "->" not in alone[0], tasks
    assert sum(part["ok"] + part["review"] for part in made.take_all()) == 20
    assert len(read_index(plan.output.folder)) == 20


def test_more_gpus_than_there_are_is_refused_with_numbers(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    make_photos(tmp_path / "photos", 1)
    settings = ["compute.actors=4", "compute.gpus_per_actor=0.5"]
    job = load_job(manifest=str(tmp_path / "photos"), output=str(tmp_path / "out"), preset=fake_preset, overrides=settings)
    with pytest.raises(ConfigError, match=r"4 actors x 0.5 GPU need 2 GPUs; the cluster has 0"):
        run_job(job)


def test_one_new_item_is_one_task(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    """Done items are dropped before the manifest is cut into blocks: ten million old rows must not become tasks."""
    make_photos(tmp_path / "photos", 12)
    job = load_job(manifest=str(tmp_path / "photos"), output=str(tmp_path / "out"), preset=fake_preset)
    run_job(job)
    make_photos(tmp_path / "photos", 1, first=12)
    files = Files(job.storage)
    plan = without_done(make_plan(job, files))
    made = graph(next(shards(plan, POOL)), POOL, context_of(plan, POOL, "run", RayCrashLedger.start())).materialize()
    tasks = re.findall(r"Operator \d+ (.*?): (\d+) tasks executed", made.stats())
    assert [int(count) for names, count in tasks if "decode_batch" in names] == [1], tasks


def test_what_a_worker_refuses_keeps_its_type_and_words(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    """The weights vanish between the check and the actor's start; the index can't be written. Ray adds advice of its own."""
    make_photos(tmp_path / "photos", 2)
    weights = tmp_path / "u2netp.onnx"
    weights.write_bytes((Path(__file__).resolve().parents[2] / "pipeline" / "weights" / "u2netp.onnx").read_bytes())
    where = {"manifest": str(tmp_path / "photos"), "output": str(tmp_path / "out")}
    job = load_job(**where, preset="u2netp", overrides=[f"recipe.weights={weights}"])
    files = Files()
    plan = make_plan(job, files)
    weights.unlink()
    with pytest.raises(WeightsError, match="u2netp.onnx"):
        list(execute(plan, POOL, "run", RunCounters(2)))

    plan = make_plan(load_job(**where, preset=fake_preset), files)
    Path(plan.output.folder).mkdir(exist_ok=True)
    Path(plan.output.layout.index).write_text("a file is in the way")
    with pytest.raises(StorageError, match="index") as refused:
        list(execute(plan, POOL, "run", RunCounters(2)))
    assert "\n" not in str(refused.value) and "attempts" not in str(refused.value)


def test_a_long_manifest_is_several_shards(
    tmp_path: Path, make_photos: MakePhotos, fake_preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that Ray Data's records of blocks end with each of them."""
    photos = make_photos(tmp_path / "photos", 11)
    for number in range(5):  # one fragment per file
        uris = [str(path) for path in photos[number::5]]
        pq.write_table(pa.table({"image_uri": uris}), tmp_path / f"{number}.parquet")
    where = {"manifest": str(tmp_path / "*.parquet"), "output": str(tmp_path / "out"), "preset": fake_preset}
    plan = make_plan(load_job(**where, overrides=["compute.rows_per_block=1"]), Files())
    assert rows_per_block(plan, POOL) == 1
    for blocks, count in (1, 15), (5, 3), (11, 1), (4_000, 1):
        monkeypatch.setattr("pipeline.run.graph.MIN_SHARD_BLOCKS", blocks)
        monkeypatch.setattr("pipeline.run.graph.SHARD_BLOCKS_PER_ACTOR", 1)
        made = list(shards(plan, POOL))
        assert len(made) == count and sum(one.items for one in made) >= 11
        pieces = {(fragment, one.share) for one in made for fragment in one.manifest.fragments}
        shares = {share for _, share in pieces}
        assert pieces == {(fragment, share) for fragment in plan.manifest.fragments for share in shares}
        assert shares == {(number, len(shares)) for number in range(len(shares))}
    assert len(list(shards(plan, replace(POOL, max_actors=1_000)))) == 1, "more actors need more blocks"


def test_every_item_is_in_one_dataset(
    tmp_path: Path, make_photos: MakePhotos, fake_preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is a single fragment, so its items are divided by their ids."""
    photos = make_photos(tmp_path / "photos", 11)
    (tmp_path / "one.csv").write_text("\n".join(["image_uri", *map(str, photos)]))
    where = {"manifest": str(tmp_path / "one.csv"), "output": str(tmp_path / "out"), "preset": fake_preset}
    plan = make_plan(load_job(**where, overrides=["compute.rows_per_block=1"]), Files())
    monkeypatch.setattr("pipeline.run.graph.MIN_SHARD_BLOCKS", 4)
    monkeypatch.setattr("pipeline.run.graph.SHARD_BLOCKS_PER_ACTOR", 1)
    datasets = []
    monkeypatch.setattr("pipeline.run.graph.graph", lambda *given: datasets.append(graph(*given)) or datasets[-1])
    list(execute(plan, POOL, "run", RunCounters(11)))
    assert len(datasets) == 3
    rows = read_index(plan.output.folder)
    assert sorted(row["image_uri"] for row in rows) == sorted(map(str, photos))
    assert {row["status"] for row in rows} <= {"ok", "review"}


def test_parts_are_no_larger_than_what_the_budget_is_first_judged_after(
    tmp_path: Path, make_photos: MakePhotos, fake_preset: str
) -> None:
    make_photos(tmp_path / "photos", 1)
    where = {"manifest": str(tmp_path / "photos"), "output": str(tmp_path / "out"), "preset": fake_preset}
    for settings, rows in ([], 64), (["budget.judged_after=1000"], 256), (["compute.rows_per_part=500"], 500):
        plan = make_plan(load_job(**where, overrides=settings), Files())
        assert rows_per_part(replace(plan, todo=10_000_000)) == rows
        assert rows_per_part(replace(plan, todo=80)) == (500 if rows == 500 else 2)


def test_blocks_of_pixels_grow_in_runs_of_millions(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    make_photos(tmp_path / "photos", 1)
    where = {"manifest": str(tmp_path / "photos"), "output": str(tmp_path / "out"), "preset": fake_preset}
    plan = make_plan(load_job(**where), Files())
    for pool, sizes in (Pool(1, 1, 0, 1, "cuda"), [64, 64, 125, 256]), (POOL, [8, 32, 32, 32]):
        assert [block_mib(replace(plan, todo=todo), pool) for todo in (1, 512_000, 1_000_000, 10_000_000)] == sizes


@pytest.mark.parametrize(
    ("settings", "todo", "actors"),
    [
        ([], 1000, 4),
        ([], 100, 3),
        ([], 10, 1),
        (["compute.actors=2"], 1000, 2),
        (["compute.gpus_per_actor=0.5"], 1000, None),
        (["compute.ray_address=head:6379"], 1000, None),
        (["recipe.frame_px=1024"], 1000, None),
    ],
)
def test_small_networks_have_several_copies_on_one_machine(
    settings: list[str], todo: int, actors: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.run.cluster.local_cpus", lambda: 16)
    monkeypatch.setattr("pipeline.run.gpus.has_cuda", lambda: False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    job = load_job(manifest="photos", output="out", preset="u2netp", overrides=settings)
    assert with_cpu_actors(job, todo).compute.actors == actors
