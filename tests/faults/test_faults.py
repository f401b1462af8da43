"""Every item ends as exactly one row, whatever breaks: real runs of the command line, one fault per test.

``make faults`` runs them and prints the table. The runs work with the fake model, on Ray and in one process, on a disk and on a
real S3 server.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = [pytest.mark.study, pytest.mark.timeout(900)]

MARKED = "item/marked"
MID_RUN = 32
"""Frames after which a run is well under way: more than a few blocks, less than a third."""

SIGTERM_S = 3.0
"""What Ray's ``job stop`` gives a run between SIGTERM and SIGKILL."""

LEFT_S = 60.0
"""How long Ray's processes may outlive their run."""

MakeTrial = Callable[..., Any]


def moments(seed: int) -> list[tuple[float, float]]:
    """Ten moments of a run, as a share of its frames and seconds after that: three in its start-up, seven until its end."""
    rng = random.Random(seed)
    start_up = [(0.0, rng.uniform(0.5 + 1.5 * third, 2.0 + 1.5 * third)) for third in range(3)]
    at_work = [((sixth + rng.random()) / 6, rng.uniform(0, 0.4)) for sixth in range(6)]
    return [(round(share, 2), round(delay_s, 1)) for share, delay_s in [*start_up, *at_work, (1.0, rng.uniform(0, 0.8))]]


@pytest.mark.parametrize(("share", "delay_s"), moments(seed=11))
def test_driver_killed(on_disk: MakeTrial, share: float, delay_s: float) -> None:
    with on_disk("driver killed", moment=f" at {share:.0%} and {delay_s:.1f} s") as trial:
        run = trial.start()
        trial.await_frames(round(share * len(trial.items)), run)
        time.sleep(delay_s)
        assert run.poll() is None, f"the run was over before it could be killed: {trial.said()}"
        run.kill()
        run.wait()
        trial.finish()


def test_actor_killed(on_disk: MakeTrial, trial_module: ModuleType) -> None:
    with on_disk("model's process killed") as trial:
        run = trial.start()
        trial.await_frames(MID_RUN, run)
        (actor,) = trial_module.workers(run, "SegmentBatch")
        actor.kill()
        assert run.wait(trial_module.RUN_S) == 0, trial.said()


@pytest.mark.parametrize("engine", ["ray"], indirect=True)
def test_task_killed(on_disk: MakeTrial, trial_module: ModuleType) -> None:
    with on_disk("a writing process killed") as trial:
        run = trial.start()
        trial.await_frames(MID_RUN, run)
        tasks: list[Any] = []
        trial_module.wait_until(
            lambda: tasks.extend(trial_module.workers(run, "write_batch")) or tasks, "a task that writes", 60
        )
        tasks[0].kill()
        assert run.wait(trial_module.RUN_S) == 0, trial.said()


@pytest.mark.parametrize("engine", ["ray"], indirect=True)
def test_machine_removed(on_disk: MakeTrial, trial_module: ModuleType, machines: Callable[..., Any]) -> None:
    with on_disk("machine removed") as trial:
        cluster = machines(trial, ["a", "b"])
        trial.settings = [f"compute.ray_address={cluster.address}", "compute.actors=2"]
        run = trial.start()
        trial.await_frames(MID_RUN, run)
        cluster.do("remove busy")
        if run.wait(trial_module.RUN_S):
            trial.finish()
        cluster.end()


def test_out_of_memory(on_disk: MakeTrial) -> None:
    faults = {"most": 2, "marked": "memory"}
    with on_disk("out of memory", doomed={MARKED: "segment"}, faults=faults, settings=["compute.batch_size=8"]) as trial:
        trial.finish(most=1)
        assert len(trial.segmented()) == len(set(trial.segmented())), "an image that was done was done again"
        tried = {int(line.split()[1]) for line in trial.trace.read_text().splitlines() if line.startswith("memory ")}
        assert {8, 4, 1} <= tried <= {8, 7, 6, 5, 4, 3, 2, 1}, f"not halved: tried {sorted(tried)} frames at once"


@pytest.mark.parametrize("where", ["decode", "segment"])
@pytest.mark.parametrize(("deed", "fault"), [("exit", "an image kills its process in {}"), ("hang", "an image hangs in {}")])
def test_poison(on_disk: MakeTrial, deed: str, fault: str, where: str) -> None:
    faults = {"marked": deed, "where": where}
    settings = ["limits.item_s=8"] if deed == "hang" else []
    with on_disk(fault.format(where), doomed={MARKED: "crash"}, faults=faults, settings=settings) as trial:
        trial.finish(most=1)


STORE = {
    "S3 answers a fifth of the requests with 503 SlowDown": [("slow_down", "", 0.2)],
    "S3 answers a tenth of the requests with 500": [("error", "", 0.1)],
    "S3 cuts connections": [("reset", "", 0.1), ("lost_answer", "", 0.1)],
    "S3 cuts answers short": [("truncate", "^GET .*[.]jpg", 0.2)],
}


@pytest.mark.parametrize("fault", STORE)
def test_store_in_trouble(on_s3: MakeTrial, proxy: Any, rule: Any, fault: str) -> None:
    with on_s3(fault) as trial, proxy.suffering(*(rule(kind, match, probability) for kind, match, probability in STORE[fault])):
        trial.finish(most=1)
        assert all(proxy.faults[kind] >= 10 for kind, *_ in STORE[fault]), f"hardly any faults: {proxy.faults}"


def test_slow_store(on_s3: MakeTrial, proxy: Any, rule: Any) -> None:
    late = [
        rule("slow", match, count=1, seconds=35.0) for match in ("^PUT .*/masks/", "^GET .*[.]jpg")
    ]  # clients give up at 30 s
    with on_s3("S3's first bytes are slow") as trial, proxy.suffering(*late, rule("slow", probability=0.1, seconds=1.5)):
        trial.finish(most=1)
        assert [rule.hits for rule in late] == [1, 1] and proxy.faults["slow"] >= 10


def test_store_killed_and_started_again(on_s3: MakeTrial, trial_module: ModuleType, s3: Any) -> None:
    with on_s3("S3 server killed, back after 5 s") as trial:
        run = trial.start()
        trial.await_frames(MID_RUN, run)
        s3.stop()
        time.sleep(5)
        s3.start()
        assert run.wait(trial_module.RUN_S) == 0, trial.said()


def check_told(said: str, reason: str) -> None:
    """A person is told what it was, in one sentence, and not what followed from it."""
    assert reason in " ".join(said.split())  # a table breaks lines where its column ends
    assert "Traceback" not in said
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "lease" not in error


def test_credentials_revoked(on_s3: MakeTrial, trial_module: ModuleType, proxy: Any, rule: Any) -> None:
    with on_s3("credentials revoked, granted again") as trial:
        run = trial.start()
        trial.await_frames(MID_RUN, run)
        with proxy.suffering(rule("forbidden")):
            assert run.wait(trial_module.RUN_S) in (2, 3), trial.said()
        trial.finish()
        check_told(trial.said(1), "access was refused")


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)], check=False, capture_output=True
    ).returncode:
        pytest.skip("a small disk can only be mounted by root")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_disk_full(on_disk: MakeTrial, trial_module: ModuleType, tmpfs: Path) -> None:
    with on_disk("disk full, then room made", output=tmpfs / "out") as trial:
        assert trial.start().wait(trial_module.RUN_S) in (2, 3), trial.said()
        subprocess.run(["mount", "-o", "remount,size=64m", str(tmpfs)], check=True)
        trial.finish()
        check_told(trial.said(1), "the disk is full")


def test_no_room_for_a_while(on_disk: MakeTrial, trial_module: ModuleType, tmp_path: Path) -> None:
    full = tmp_path / "full"
    with on_disk("no room for images (injected)", faults={"full": str(full)}) as trial:
        run = trial.start()
        trial.await_frames(MID_RUN, run)
        full.touch()
        assert run.wait(trial_module.RUN_S) == 3, trial.said()
        full.unlink()
        trial.finish()
        check_told(trial.said(1), "the disk is full")


def test_sigterm(on_disk: MakeTrial, trial_module: ModuleType, bars: Any) -> None:
    with on_disk("SIGTERM") as trial:
        run = trial.start()
        trial.await_frames(MID_RUN, run)
        asked = time.monotonic()
        run.send_signal(signal.SIGTERM)
        code = run.wait(trial_module.RUN_S)
        took_s = time.monotonic() - asked
        assert code == 4, trial.said()
        trial.finish()
        check_told(trial.said(1), "stopped by SIGTERM")
        bars.at_most("SIGTERM to the end of the process, s", took_s, SIGTERM_S)


def test_two_starts_in_the_same_second(on_disk: MakeTrial, trial_module: ModuleType) -> None:
    with on_disk("started twice at once") as trial:
        runs = [trial.start(), trial.start()]
        codes = [run.wait(trial_module.RUN_S) for run in runs]
        assert sorted(codes) == [0, 5], [trial.said(1), trial.said(2)]
        winner = runs[codes.index(0)]
        assert f"process {winner.pid}" in trial.said(1 + codes.index(5)), "the loser names the one at work"


OTHER = ["recipe.frame_px=96", "compute.rows_per_part=16"]
"""Another recipe, with many objects written before the rows of their part."""


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_killed_while_replacing(on_disk: MakeTrial, share: float) -> None:
    """Objects are overwritten before their rows are: the next run, without any option, repairs what is in between."""
    with on_disk("driver killed while items are replaced", moment=f" at {share:.0%}") as trial:
        trial.finish(most=1)
        trial.settings, trial.options = OTHER, ["--replace"]
        run = trial.start()
        trial.await_frames(round((1 + share) * len(trial.items)), run)
        run.kill()
        run.wait()
        trial.options = []
        trial.finish()
        recipes = {row["recipe"] for row in trial.index()}
        assert len(recipes) == 1


def test_killed_between_objects_and_their_row(on_disk: MakeTrial, trial_module: ModuleType) -> None:
    """Everything is overwritten and nothing committed, and the items of the former recipe are asked for again."""
    with on_disk("driver killed between new objects and their rows") as trial:
        trial.finish(most=1)
        before = {row["item_id"]: row["mask_sha256"] for row in trial.index()}
        trial.settings, trial.options = ["recipe.frame_px=96", "compute.rows_per_part=1000"], ["--replace"]
        run = trial.start()
        trial.await_frames(2 * len(trial.items), run)
        run.kill()
        run.wait()
        masks = {name: hash_ for name, hash_ in trial.mask_hashes().items() if before[name] != hash_}
        assert masks, "some masks are new although no row is"
        trial.settings = []  # the former recipe again: its rows are there, and their objects are not
        trial.finish()
        assert {row["item_id"]: row["mask_sha256"] for row in trial.index()} == before


def test_killed_while_a_rendition_is_added(on_disk: MakeTrial, trial_module: ModuleType) -> None:
    with on_disk("driver killed while a rendition is added") as trial:
        trial.finish(most=1)
        trial.options = ["--rendition", "amazon-main"]
        run = trial.start()
        folder = Path(trial.place.output) / "amazon-main"
        trial_module.wait_until(lambda: len(list(folder.rglob("*.jpg"))) >= 10 or run.poll() is not None, "ten files", 120)
        run.kill()
        run.wait()
        trial.finish()
        assert all(row["renditions"][0]["name"] == "amazon-main" for row in trial.index())
        assert len(trial.segmented()) == len(trial.items), "the model is not needed"


def test_two_items_of_one_name(on_disk: MakeTrial, trial_module: ModuleType, tmp_path: Path) -> None:
    with on_disk("two items of one file name") as trial:
        trial.finish(most=1)
        manifest, folder = trial.manifest, Path(trial.manifest).parent
        clash = tmp_path / "clash.csv"
        clash.write_text(f"item_id,image_uri\nITEM/000,{folder}/photos/photo-001.jpg\n")
        trial.manifest, trial.options = str(clash), ["--allow-root", str(folder)]
        assert trial.start().wait(trial_module.RUN_S) == 2, trial.said()
        assert "'item/000' and 'ITEM/000' would share the file name" in trial.said()
        trial.manifest, trial.options = manifest, []


def test_output_moved(on_disk: MakeTrial, tmp_path: Path, trial_module: ModuleType) -> None:
    with on_disk("output moved") as trial:
        trial.finish(most=1)
        moved = tmp_path / "elsewhere" / "out"
        moved.parent.mkdir()
        Path(trial.place.output).rename(moved)
        trial.place = trial_module.Disk(str(moved))
        trial.finish(most=1)
        assert len(trial.segmented()) == len(trial.items), "nothing is done again"


def test_nothing_is_left_running(trial_module: ModuleType, bars: Any) -> None:
    """Comes last. Ray's processes find out by themselves that a killed run is gone, which may take some of them a minute."""
    deadline = time.monotonic() + LEFT_S
    while (left := trial_module.outside_roots(trial_module.SESSIONS)) and time.monotonic() < deadline:
        time.sleep(1)
    titles = "".join(f", {trial_module.title(process)[:80]}" for process in left)
    for process in left:
        process.kill()
    bars.at_most(f"processes that outlived their run by more than {LEFT_S:.0f} s{titles}", len(left), 0)
