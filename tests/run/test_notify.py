"""Send notifications about the end of a run, and survive targets that do not answer."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.job import load_job
from pipeline.errors import ConfigError, ErrorBudgetExceeded, StorageError
from pipeline.run.driver import run_job
from pipeline.run.notify import notifying
from pipeline.storage.files import Files
from pipeline.storage.http import post_json

MATTELINE = str(Path(sys.executable).with_name("matteline"))
SECRET = "planted-Path-Hd8s"
MakePhotos = Callable[..., list[Path]]


class Hook:
    """A web server on the loopback interface, an address inside a network, that answers as it is told to."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.answers: list[int] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(hook.answers.pop(0) if hook.answers else 200)
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/services/{SECRET}?token={SECRET}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.setattr("pipeline.storage.http.POST_PAUSE_S", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = Hook()
    yield running
    running.server.shutdown()


def test_it_is_tried_again_while_that_may_help(hook: Hook) -> None:
    hook.answers = [503, 429]
    post_json(hook.address, b"{}")
    assert len(hook.got) == 3
    for status in (404, 302):
        hook.got.clear()
        hook.answers = [status]
        with pytest.raises(StorageError, match=rf"http://127.0.0.1: .*HTTP {status}") as refused:
            post_json(hook.address, b"{}")
        assert len(hook.got) == 1 and SECRET not in str(refused.value)


def test_nobody_there_is_one_warning_without_the_address(logged: list[logging.LogRecord], monkeypatch: Any) -> None:
    monkeypatch.setattr("pipeline.storage.http.POST_PAUSE_S", 0.01)
    job = load_job(manifest="m", output="o", overrides=[f"notify.to=http://127.0.0.1:9/{SECRET}"])
    with notifying(job, "run", Files()) as notifier:
        notifier.send(0, None)
    (line,) = [record.getMessage() for record in logged if "could not send" in record.getMessage()]
    assert "can't be reached" in line and SECRET not in line
    assert SECRET not in repr(job) + str(job.model_dump_json())


NO_PLACES = [
    "mailto:me@example.com",
    "s3://bucket/folder/",
    "https://[::1/a",
    "https://h:99999/a",
    "http://h:x/a",
    "https:///a",
]


@pytest.mark.parametrize("place", ["", *NO_PLACES])
def test_what_is_no_place_is_refused(place: str) -> None:
    with pytest.raises(ConfigError, match="notify"):
        load_job(manifest="m", output="o", overrides=[f"notify.to={json.dumps(place)}"])


@pytest.mark.parametrize("place", NO_PLACES)
def test_what_is_no_place_is_refused_before_the_work(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATTELINE_NOTIFY", place)
    with pytest.raises(ConfigError, match="MATTELINE_NOTIFY must be the address of a webhook") as refused:
        run_job(load_job(manifest=str(tmp_path / "none.csv"), output=str(tmp_path / "out")))
    assert place not in str(refused.value)


@pytest.mark.parametrize("around", ["{}", "{}\n", " {} "])
def test_secrets_may_end_in_a_line_end(around: str, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATTELINE_NOTIFY", around.format(hook.address))
    with notifying(load_job(manifest="m", output="o"), "run", Files()):
        pass
    assert hook.got[0]["run_id"] == "run"


def test_an_empty_variable_names_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATTELINE_NOTIFY", " \n")
    with notifying(load_job(manifest="m", output="o"), "run", Files()):
        pass


def test_every_end_is_told(
    tmp_path: Path, make_photos: MakePhotos, fake_preset: str, hook: Hook, logged: list[logging.LogRecord]
) -> None:
    make_photos(tmp_path / "photos", 3)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no photo")

    def go(*more: str, to: str = hook.address, manifest: str = "photos") -> None:
        overrides = [f"notify.to={to}", "budget.max_failed_share=0.5", *more]
        where = {"manifest": str(tmp_path / manifest), "output": str(tmp_path / "out"), "preset": fake_preset}
        run_job(load_job(**where, overrides=overrides))

    go()
    lines = [getattr(record, "facts", {}) for record in logged]
    (failed,) = [line for line in lines if line.get("item_id")]
    assert (failed["item_id"], failed["code"]) == ("broken.jpg", "decode") and "plain text" in failed["detail"]
    assert {line.get("run_id") for line in lines} == {hook.got[0]["run_id"]}
    assert SECRET not in "".join(f"{record.getMessage()}{vars(record)}" for record in logged)
    (tmp_path / "photos" / "new.jpg").write_bytes(b"no photo either")
    with pytest.raises(ErrorBudgetExceeded):
        go("budget.max_failed_share=0.1", "budget.allowed_failed=0")
    with pytest.raises(StorageError):
        go(manifest="nowhere.csv")
    done, over, refused = hook.got
    assert (done["exit_code"], done["outcome"], done["ok"] + done["review"], done["failed"]) == (0, "complete", 3, 1)
    assert done["failures"]["decode"]["count"] == 1 and ", 1 failed, of 4 items into" in done["text"]
    assert (over["exit_code"], over["outcome"], over["done_before"]) == (3, "over the error budget", 4)
    assert (refused["exit_code"], refused["outcome"]) == (2, "refused") and "nowhere.csv" in refused["error"]
    assert len({told["run_id"] for told in hook.got}) == 3

    go(to=str(tmp_path / "told" / "last.json"))
    told = json.loads((tmp_path / "told" / "last.json").read_text())
    assert (told["exit_code"], told["items"], told["done_before"]) == (0, 5, 5)


@pytest.mark.parametrize(
    ("option", "said"),
    [(("-p", "mvanet-light"), "mvanet-light"), (("--deadline", "6"), "6"), (("--retry", "fetsch"), "fetsch")],
)
def test_settings_that_make_no_job_are_told_too(option: tuple[str, str], said: str, hook: Hook, tmp_path: Path) -> None:
    env = dict(os.environ) | {"MATTELINE_NOTIFY": hook.address}
    command = [MATTELINE, "run", "-m", "photos", "-o", "out", *option]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    (told,) = hook.got
    assert (told["exit_code"], told["outcome"], told["manifest"], told["output"]) == (2, "refused", "photos", "out")
    assert said in told["error"] and SECRET not in done.stderr


def test_what_is_told_holds_no_credentials(hook: Hook) -> None:
    manifest = f"https://me:{SECRET}@shop.example/m.csv?signature={SECRET}"
    with notifying(load_job(manifest=manifest, output="o", overrides=[f"notify.to={hook.address}"]), "run", Files()):
        pass
    assert hook.got[0]["manifest"] == "https://shop.example/m.csv" and SECRET not in json.dumps(hook.got)


@pytest.mark.parametrize(("where", "moment"), [(0, "starting the actors"), (100, "loading the model")])
def test_a_signal_is_told_too(
    tmp_path: Path, make_photos: MakePhotos, fake_preset: str, hook: Hook, where: int, moment: str, own_environment: Any
) -> None:
    make_photos(tmp_path / "photos", 60)
    settings = ["compute.progress_s=0.2", "compute.rows_per_part=1", f"compute.local_items={where}"]
    command = [MATTELINE, "run", "-m", "photos", "-o", "out", "-p", fake_preset, *(w for one in settings for w in ("-s", one))]
    env = own_environment({"MATTELINE_NOTIFY": hook.address})
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as run:
        assert run.stderr is not None
        said = []
        for line in run.stderr:
            said.append(line)
            if moment in line:
                run.send_signal(signal.SIGTERM)
    assert run.returncode == 4, said
    (told,) = hook.got
    assert (told["exit_code"], told["outcome"], told["items"]) == (4, "stopped", 60)
    if where == 0:  # it had begun
        (path,) = (tmp_path / "out").rglob("progress/*.json")
        assert json.loads(path.read_text())["state"] == "stopped"
    assert SECRET not in "".join(said) + "".join(path.read_text() for path in (tmp_path / "out").rglob("*.json"))
    lines = [json.loads(line) for line in said if line.startswith("{")]
    assert {line["run_id"] for line in lines} == {told["run_id"]}
