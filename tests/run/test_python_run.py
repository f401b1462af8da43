"""``from pipeline import run``: a whole job from Python, as the command does it."""

from __future__ import annotations

import inspect
import json
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

import pipeline
import pipeline.run.driver
from pipeline import RunProgress, RunRecord, run
from pipeline.errors import ConfigError, ErrorBudgetExceeded, LeaseHeld, PipelineError, Stopped, StorageError, WeightsError
from pipeline.output.lease import Lease
from pipeline.output.output import Output
from pipeline.run import callback, driver
from pipeline.storage.files import Files

MakePhotos = Callable[..., list[Path]]


@pytest.fixture
def photos(tmp_path: Path, make_photos: MakePhotos) -> Path:
    make_photos(tmp_path / "photos", 6)
    return tmp_path / "photos"


@pytest.fixture
def every_part(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings with which the function is told about every two items."""
    monkeypatch.setattr(callback, "EVERY_S", 0.0)
    return {"compute.rows_per_block": 2, "compute.batch_size": 2}


def items(output: Path) -> list[dict[str, Any]]:
    return ds.dataset(output / "index", format="parquet").to_table().to_pylist()


def written_record(output: Path, record: RunRecord) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "_matteline" / "runs" / f"{record.run_id}.json").read_text())
    return found


def test_a_whole_job_and_its_record(photos: Path, tmp_path: Path, fake_preset: str, every_part: dict[str, Any]) -> None:
    told: list[RunProgress] = []
    threads = set()

    def show(progress: RunProgress) -> None:
        told.append(progress)
        threads.add(threading.current_thread())

    out = tmp_path / "out"
    record = run(photos, out, preset=Path(fake_preset), rendition="amazon-main", settings=every_part, progress=show)
    assert (record.outcome, record.exit_code, record.items, record.ok + record.review) == ("complete", 0, 6, 6)
    assert len(items(out)) == 6 and len(list((out / "amazon-main").iterdir())) == 6
    written = written_record(out, record)
    assert written["ok"] == record.ok and written["run_id"] == record.run_id
    assert repr(record) == (
        f"<RunRecord {record.run_id}: complete, {record.ok} ok, {record.review} review, 0 failed, 0 done before, of 6 items>"
    )
    assert (told[0].state, told[0].done, told[0].items) == ("running", 0, 6)
    assert (told[-1].state, told[-1].done, told[-1].eta_s) == ("complete", 6, 0)
    assert [one.done for one in told] == sorted(one.done for one in told) and {2, 4} <= {one.done for one in told}
    assert threads == {threading.current_thread()}


def test_it_is_the_command(
    photos: Path, tmp_path: Path, fake_preset: str, make_photos: MakePhotos, matteline: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    done = matteline("run", "-m", "photos", "-o", "out", "-p", fake_preset, "--rendition", "transparent")
    assert done.returncode == 0, done.stderr
    record = run(str(photos), str(out), preset=fake_preset, rendition=["transparent"])
    assert (record.done_before, record.ok + record.review) == (6, 0)
    make_photos(photos, 2, first=6)
    record = run(photos, out, preset=fake_preset, rendition=["transparent"])
    assert (record.done_before, record.ok + record.review) == (6, 2)


def test_retry_changed_and_replace(photos: Path, tmp_path: Path, fake_preset: str, make_photos: MakePhotos) -> None:
    out, broken = tmp_path / "out", photos / "broken.jpg"
    broken.write_bytes(b"no picture")
    assert run(photos, out, preset=fake_preset).failures["decode"]["count"] == 1
    broken.write_bytes((photos / "photo-000.jpg").read_bytes())
    assert run(photos, out, preset=fake_preset).done_before == 7
    assert run(photos, out, preset=fake_preset, retry={"decode"}).done_before == 6
    make_photos(tmp_path / "new", 2, first=3)
    (tmp_path / "new" / "photo-004.jpg").rename(photos / "photo-000.jpg")
    assert run(photos, out, preset=fake_preset, changed=True, retry="decode,fetch").done_before == 6
    with pytest.raises(ConfigError, match="other settings: .*add --replace"):
        run(photos, out, preset=fake_preset, settings={"recipe.sharpen": 2.0})
    assert run(photos, out, preset=fake_preset, settings={"recipe.sharpen": 2.0}, replace=True).done_before == 0
    assert len(items(out)) == 7


def test_settings_have_python_s_types_and_a_job_file_comes_first(photos: Path, tmp_path: Path, fake_preset: str) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(f"manifest: {photos}\noutput: {tmp_path}/elsewhere\npreset: {fake_preset}\nrecipe: {{box_margin: 0.2}}\n")
    settings = {"recipe.outputs": ["mask"], "output.name": "{image}", "limits.max_bytes": 10**7, "storage.http": False}
    record = run(job=job, output=tmp_path / "out", settings=settings)
    assert record.ok + record.review == 6
    recipe = json.loads((tmp_path / "out" / "_matteline" / "recipe.json").read_text())
    assert recipe["recipe"]["box_margin"] == 0.2 and recipe["outputs"] == ["mask"]
    assert not (tmp_path / "elsewhere").exists() and not (tmp_path / "out" / "cutouts").exists()


def test_images_elsewhere_need_an_allowed_root(photos: Path, tmp_path: Path, fake_preset: str) -> None:
    (tmp_path / "lists").mkdir()
    manifest = tmp_path / "lists" / "manifest.csv"
    manifest.write_text(f"image_uri\n{photos}/photo-000.jpg\n")
    with pytest.raises(ConfigError, match="allow"):
        run(manifest, tmp_path / "out", preset=fake_preset)
    assert run(manifest, tmp_path / "out", preset=fake_preset, allow_root=photos).items == 1


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"manifest": None}, ConfigError, "no manifest: give --manifest a path or a URI"),
        ({"output": None}, ConfigError, "no output"),
        ({"manifest": 7}, TypeError, "manifest is a path or URI, not a int"),
        ({"manifest": ["a.jpg"]}, TypeError, "manifest is a path or URI, not a list"),
        ({"rendition": [7]}, TypeError, "rendition is a path or URI, not a int"),
        ({"settings": "recipe.sharpen=2"}, TypeError, "settings is a mapping such as"),
        ({"settings": {"sharpen": 2}}, ConfigError, "settings: 'sharpen' is not section.key with a section of output, recipe"),
        ({"settings": {"recipe": {"sharpen": 2}}}, ConfigError, "settings: 'recipe' is not section.key"),
        ({"settings": {"recipe.sharpen": "much"}}, ConfigError, "recipe.sharpen: .*number"),
        ({"settings": {"compute.acters": 2}}, ConfigError, "settings: compute.acters: Extra inputs are not permitted"),
        ({"preset": "u3netp"}, ConfigError, "there is no preset 'u3netp'"),
        ({"retry": "fetsch"}, ConfigError, "'fetsch' is not an error code; choose from crash"),
        ({"label": "x" * 300}, ConfigError, "label: the label 'x+'… has 300 characters"),
        ({"label": [7]}, ConfigError, "label: label 7 is not a name"),
        ({"manifest": "gone"}, StorageError, "gone: it does not exist"),
        ({"outputs": "x"}, TypeError, "outputs"),
    ],
)
def test_what_is_refused(photos: Path, tmp_path: Path, fake_preset: str, wrong: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        run(**({"manifest": photos, "output": tmp_path / "out", "preset": fake_preset} | wrong))
    assert not (tmp_path / "out" / "_matteline").exists()


def test_too_many_failures_are_an_error_with_the_record(tmp_path: Path, fake_preset: str) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ErrorBudgetExceeded, match="all 1 items failed") as raised:
        run(tmp_path / "photos", tmp_path / "out", preset=fake_preset)
    assert raised.value.record.failures["decode"]["count"] == 1 and raised.value.record.exit_code == 3


def test_a_second_run_on_the_same_output_is_refused(photos: Path, tmp_path: Path, fake_preset: str) -> None:
    with Lease(Output.at(str(tmp_path / "out"), Files()), "other"), pytest.raises(LeaseHeld):
        run(photos, tmp_path / "out", preset=fake_preset)


@pytest.mark.parametrize(
    ("step", "error", "state", "is_recorded"),
    [
        ("load_or_check_model", WeightsError("no network"), "refused", False),
        ("Lease", LeaseHeld("another run is active"), "another run uses this output", False),
        ("prepare_output", StorageError("no index"), "refused", True),
        ("run_passes", RuntimeError("a bug"), "broken", True),
    ],
)
def test_the_last_call_says_how_the_run_ended(
    photos: Path, tmp_path: Path, fake_preset: str, monkeypatch: Any, step: str, error: Exception, state: str, is_recorded: bool
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(driver, step, fail)
    told: list[RunProgress] = []
    with pytest.raises(type(error), match=str(error)):
        run(photos, tmp_path / "out", preset=fake_preset, progress=told.append)
    assert [one.state for one in told] == ["running", state]
    records = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("runs/*.json")]
    assert [one["outcome"] for one in records] == [state] * is_recorded
    if isinstance(error, PipelineError):
        assert (error.record is not None) == is_recorded


def interrupt(_: RunProgress) -> None:
    signal.raise_signal(signal.SIGINT)


def stop(_: RunProgress) -> None:
    raise Stopped("enough for today")


@pytest.mark.parametrize(
    ("end", "error", "said"), [(stop, Stopped, "enough for today"), (interrupt, KeyboardInterrupt, "stopped by Ctrl-C")]
)
def test_a_run_that_the_caller_ends_can_be_continued(
    photos: Path,
    tmp_path: Path,
    fake_preset: str,
    every_part: dict[str, Any],
    end: Callable[[RunProgress], None],
    error: type[BaseException],
    said: str,
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may ignore it

    def after_some(progress: RunProgress) -> None:
        if progress.state == "running" and progress.done >= 1:
            end(progress)

    out = tmp_path / "out"
    with pytest.raises(error):
        run(photos, out, preset=fake_preset, settings=every_part | {"notify.to": tmp_path / "note.json"}, progress=after_some)
    note = json.loads((tmp_path / "note.json").read_text())
    assert (note["outcome"], note["exit_code"]) == ("stopped", 4) and said in note["error"]
    (path,) = (out / "_matteline" / "runs").iterdir()
    written = json.loads(path.read_text())
    assert (written["outcome"], written["exit_code"]) == ("stopped", 4) and said in written["error"]
    assert 2 <= written["ok"] + written["review"] < 6
    record = run(photos, out, preset=fake_preset)
    assert record.done_before >= 2 and record.done_before + record.ok + record.review == 6
    assert len(items(out)) == 6


def test_a_function_that_fails_does_not_end_the_run(
    photos: Path, tmp_path: Path, fake_preset: str, every_part: dict[str, Any], logged: list[Any]
) -> None:
    calls: list[RunProgress] = []

    def broken(progress: RunProgress) -> None:
        calls.append(progress)
        raise ValueError("no such widget")

    record = run(photos, tmp_path / "out", preset=fake_preset, settings=every_part, progress=broken)
    assert record.ok + record.review == 6 and len(calls) == 1
    assert len([line for line in logged if "the progress function has raised an error" in line.getMessage()]) == 1


def test_threads_may_run_small_jobs_beside_each_other(photos: Path, tmp_path: Path, fake_preset: str) -> None:
    def one(number: int) -> RunRecord:
        return run(photos, tmp_path / f"out-{number}", preset=fake_preset)

    with ThreadPoolExecutor(2) as pool:
        records = list(pool.map(one, range(2)))
    assert [record.ok + record.review for record in records] == [6, 6]
    assert [len(items(tmp_path / f"out-{number}")) for number in range(2)] == [6, 6]


def test_the_package_is_its_function_whatever_was_imported_before() -> None:
    assert pipeline.run is run is sys.modules["pipeline.run"]
    assert callable(run) and pickle.loads(pickle.dumps(run)) is run
    assert list(inspect.signature(run).parameters)[:3] == ["manifest", "output", "label"]
    assert {"Segmenter", "run", "RunProgress", "__version__"} <= set(dir(pipeline))
    assert all(getattr(pipeline, name) for name in pipeline.__all__)
    with pytest.raises(AttributeError, match="no attribute 'rum'"):
        pipeline.rum  # noqa: B018


WITHOUT_HEAVY = """
import sys
import pipeline
from pipeline import RunProgress, RunRecord, run
try:
    run("nowhere", "out", settings={"compute.engine": "nonsense"})
except pipeline.errors.ConfigError as error:
    assert "compute.engine" in str(error)
try:
    pipeline.run("nowhere", "out")
except pipeline.errors.PipelineError as error:
    assert "nowhere" in str(error)
print({"ray", "torch", "timm", "onnxruntime", "openvino"} & set(sys.modules))
"""


def test_wrong_configuration_is_refused_without_ray_and_pytorch(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_HEAVY], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout == "set()\n", done.stdout + done.stderr


BEGINNING = """
import asyncio, logging, signal, sys
from pipeline import run

mine = lambda number, frame: None
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, mine)
found = []

def check(record):
    kept = all(signal.getsignal(number) is mine for number in (signal.SIGTERM, signal.SIGINT))
    found.append((record.outcome, record.ok + record.review, kept))

photos, preset = sys.argv[1:]
"""

NOTEBOOK = """
async def notebook():  # the cells of a notebook run inside an event loop
    check(run(photos, "notebook", preset=preset))
    check(await asyncio.to_thread(run, photos, "thread", preset=preset))

check(run(photos, "small", preset=preset))
asyncio.run(notebook())
"""

ON_RAY = """
check(run(photos, "ray", preset=preset, settings={"compute.local_items": 0}))
import ray
assert not ray.is_initialized()
"""

END = """
assert logging.getLogger("matteline").handlers == [] and logging.getLogger("matteline").propagate
print(found)
"""


@pytest.mark.parametrize(("middle", "runs"), [(NOTEBOOK, 3), (ON_RAY, 1)], ids=["notebook", "ray"])
def test_a_script_without_a_guard_keeps_its_signal_handlers_and_its_log(
    photos: Path, tmp_path: Path, fake_preset: str, middle: str, runs: int, own_environment: Any
) -> None:
    (tmp_path / "script.py").write_text(BEGINNING + middle + END)
    done = subprocess.run(
        [sys.executable, "script.py", str(photos), fake_preset],
        cwd=tmp_path,
        env=own_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.stdout == f"{[('complete', 6, True)] * runs}\n", done.stdout + done.stderr


def test_all_errors_have_one_base() -> None:
    assert issubclass(LeaseHeld, PipelineError) and PipelineError("x").record is None
