"""Runs over HTTP: what a client may ask for, how it sees and stops its job, and that nothing of it is lost."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from pipeline.config.job import Compute
from pipeline.config.job_request import SAFE_SETTINGS
from pipeline.errors import LeaseHeld
from pipeline.output.lease import Lease, new_run_id, this_process
from pipeline.output.output import Output
from pipeline.output.run_record import RunRecord
from pipeline.run.callback import RunProgress
from pipeline.serve.jobs import jobs, process
from pipeline.serve.jobs.offer import Offer
from pipeline.serve.jobs.records import JobRecord, now
from pipeline.serve.jobs.state import state_of, told
from pipeline.serve.refusals import RequestRefused
from pipeline.storage.files import Files

MakePhotos = Callable[..., list[Path]]
PHOTOS = 20
EVERY = ("--set", "compute.progress_s=0.3")


def post(service: Any, body: Any, **headers: str) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return service.post("/v1/jobs", data, **({"Content_Type": "application/json"} | headers))


def wait_for(service: Any, job_id: str, what: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first state of a job that is as it should be."""
    until = time.monotonic() + 200
    while not what(state := service.get(f"/v1/jobs/{job_id}").json):
        assert time.monotonic() < until, state
        time.sleep(0.1)
    return state


def is_over(state: dict[str, Any]) -> bool:
    return state["verdict"] == "over"


def has_begun(state: dict[str, Any]) -> bool:
    return state["verdict"] == "running" and (state["progress"] or {}).get("ok", 0) + state["progress"].get("review", 0) > 0


@pytest.fixture(scope="module")
def roots(make_photos: MakePhotos, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders to read and to write below. The one for reading is a link, whose target no answer may name."""
    folder = tmp_path_factory.mktemp("jobs")
    make_photos(folder / "hidden" / "photos", 6)
    (folder / "hidden" / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    (folder / "hidden" / "odd.csv").write_text("picture\nphotos/photo-000.jpg\n")
    (folder / "hidden" / "escape").symlink_to("/etc")
    (folder / "hidden" / "odd-link").symlink_to(folder / "hidden" / "p[h]otos")
    (folder / "read").symlink_to(folder / "hidden")
    (folder / "write").mkdir()
    return folder / "read", folder / "write"


@pytest.fixture(scope="module")
def service_with_jobs(start_service: Callable[..., Any], fake_preset: str, roots: tuple[Path, Path]) -> Any:
    read, write = map(str, roots)
    return start_service("--preset", fake_preset, "--allow-root", read, "--output-root", write, *EVERY)


def test_a_job_from_its_request_to_its_files(service_with_jobs: Any, roots: tuple[Path, Path]) -> None:
    service, (read, write) = service_with_jobs, roots
    asked = {
        "manifest": f"{read}/photos",
        "output": f"{write}/all",
        "renditions": ["white"],
        "settings": {"run.retry": "fetch"},
    }
    answer = post(service, asked)
    assert answer.status == 202, answer.body
    assert answer.json["verdict"] in {"starting", "running"} and answer.headers["Location"] == f"/v1/jobs/{answer.json['id']}"
    state = wait_for(service, answer.json["id"], is_over)
    assert (state["exit_code"], state["said"], state["error"]) == (0, "complete", None)
    progress = state["progress"]
    assert (progress["items"], progress["ok"] + progress["review"], progress["failed"]) == (7, 6, 1)
    assert progress["failures"]["decode"]["about"] == "the file is not a picture that can be used"
    assert len(list((write / "all" / "white").iterdir())) == len(list((write / "all" / "cutouts").iterdir())) == 6
    (run,) = (write / "all" / "_matteline" / "runs").iterdir()
    assert run.stem == state["id"]  # what `matteline top` shows
    (listed,) = [one for one in service.get("/v1/jobs").json["jobs"] if one["id"] == state["id"]]
    assert (listed["manifest"], listed["exit_code"]) == (asked["manifest"], 0)
    said = json.dumps([answer.json, state, listed])
    assert "hidden" not in said and "process" not in said and "@" not in said
    assert service.request("DELETE", f"/v1/jobs/{state['id']}").status == 200  # it was over
    described = service.get("/openapi.json").json["paths"]
    assert set(described["/v1/jobs"]) == {"post", "get"} and set(described["/v1/jobs/{id}"]) == {"get", "delete"}
    assert "DELETE /v1/jobs/{id}" in service.get("/docs").body.decode()
    again = wait_for(service, post(service, asked).json["id"], is_over)
    assert (again["exit_code"], again["progress"]["done_before"]) == (0, 7)


def test_a_run_that_is_refused_says_why(service_with_jobs: Any, roots: tuple[Path, Path]) -> None:
    read, write = roots
    state = wait_for(
        service_with_jobs,
        post(service_with_jobs, {"manifest": f"{read}/odd.csv", "output": f"{write}/odd"}).json["id"],
        is_over,
    )
    assert (state["exit_code"], state["progress"]) == (2, None)
    assert "image_uri" in state["error"] and "hidden" not in state["error"]


@pytest.mark.parametrize(
    "change, status, code, words",
    [
        ({"manifest": "/etc/passwd"}, 403, "address", "--allow-root"),
        ({"manifest": "READ/../secret.csv"}, 403, "address", "--allow-root"),
        ({"manifest": "READ/escape/hosts.csv"}, 403, "address", "--allow-root"),
        ({"manifest": "READ/*.csv"}, 400, "request", "none of"),
        ({"manifest": "file://READ/%2A/x.csv"}, 400, "request", "none of"),
        ({"manifest": "file://localhostREAD/%5Bp%5Dhotos"}, 400, "request", "none of"),
        ({"manifest": "file://READ/x.zip%23a.jpg"}, 400, "request", "none of"),
        ({"manifest": "file://READ/a%00b"}, 400, "request", "control"),
        ({"manifest": "READ/odd-link"}, 400, "request", "none of"),
        ({"manifest": "https://example.com/manifest.csv"}, 403, "address", "--allow-root"),
        ({"manifest": "s3://user:key@bucket/x"}, 400, "request", "manifest"),
        ({"manifest": "file://host/x"}, 400, "request", "manifest"),
        ({"manifest": "READ\x00"}, 400, "request", "control"),
        ({"manifest": ""}, 400, "request", "manifest"),
        ({"manifest": 5}, 400, "request", "manifest"),
        ({"manifest": "x" * 5000}, 400, "request", "manifest"),
        ({"output": "/tmp/elsewhere"}, 403, "address", "--output-root"),
        ({"output": "READ/photos"}, 403, "address", "--output-root"),
        ({"output": "WRITE"}, 403, "address", "below the root"),
        ({"output": "WRITE/_matteline-jobs/x"}, 403, "address", "below the root"),
        ({"output": "WRITE/shop/_matteline-jobs"}, 403, "address", "below the root"),
        ({"output": "WRITE/x/../../elsewhere"}, 403, "address", "--output-root"),
        ({"preset": "ben2-base"}, 400, "request", "choose from fake"),
        ({"preset": "/etc/x.yaml"}, 400, "request", "choose from fake"),
        ({"renditions": ["/etc/x.yaml"]}, 400, "request", "amazon-main"),
        ({"renditions": "white"}, 400, "request", "renditions"),
        ({"settings": {"storage.endpoint_url": "http://evil.example"}}, 400, "request", "may not set 'storage.endpoint_url'"),
        ({"settings": {"storage.allow_roots": "/"}}, 400, "request", "may not set"),
        ({"settings": {"notify.to": "http://evil.example"}}, 400, "request", "may not set"),
        ({"settings": {"run.accept_licence": True}}, 400, "request", "may not set"),
        ({"settings": {"recipe.weights": "/etc/passwd"}}, 400, "request", "may not set"),
        ({"settings": {"drift.accepted": "/etc/passwd"}}, 400, "request", "may not set"),
        ({"settings": {"compute.ray_address": "ray://evil"}}, 400, "request", "may not set"),
        ({"settings": {"limits.max_pixels": 10**12}}, 400, "request", "may not set"),
        ({"settings": {"budget.deadline_s": 10**9}}, 400, "request", "the service's operator has set budget.deadline_s"),
        ({"settings": {"run.retry": "nonsense"}}, 400, "request", "nonsense"),
        ({"settings": {"output.name": {"a": [1]}}}, 400, "request", "name"),
        ({"settings": []}, 400, "request", "settings"),
        ({"allow_root": "/"}, 400, "request", "allow_root"),
    ],
)
def test_what_a_request_may_not_ask_for(
    fake_preset: str, roots: tuple[Path, Path], change: dict[str, Any], status: int, code: str, words: str
) -> None:
    read, write = map(str, roots)
    settings = {"storage.key": "AKIDSECRET", "storage.secret": "hush", "budget.deadline_s": "3600"}
    offer = Offer((read, "https://example.com/"), (write,), 1, {"fake": fake_preset}, {"amazon-main": "amazon-main"}, settings)
    body = {"manifest": f"{read}/photos", "output": f"{write}/refused"} | change
    body = json.loads(json.dumps(body).replace("READ", read).replace("WRITE", write))
    with pytest.raises(RequestRefused) as refused:
        offer.check(body)
    assert (refused.value.status, refused.value.code) == (status, code) and words in str(refused.value)
    assert "hush" not in str(refused.value) and "hidden" not in str(refused.value)


@pytest.mark.parametrize("content", [None, "nonsense: [", "recipe: {boundary: 5}"])
def test_a_file_of_the_operator_that_breaks_is_not_shown(
    fake_preset: str, roots: tuple[Path, Path], tmp_path: Path, content: str | None, logged: list[Any]
) -> None:
    """Jobs read presets anew. The path of one that is gone or broken is for the log."""
    read, write = map(str, roots)
    own = tmp_path / "secret-shop.yaml"
    own.write_bytes(Path(fake_preset).read_bytes())
    offer = Offer((read,), (write,), 1, {"shoes": str(own)}, {}, {})
    body = {"manifest": f"{read}/photos", "output": f"{write}/x"}
    assert offer.check(body).preset == "shoes"
    with pytest.raises(RequestRefused) as refused:
        offer.check(body | {"settings": {"recipe.hole_share": 7}})
    assert refused.value.status == 400 and "hole_share" in str(refused.value) and "secret" not in str(refused.value)
    own.unlink() if content is None else own.write_text(content)
    with pytest.raises(RequestRefused) as refused:
        offer.check(body)
    assert (refused.value.status, refused.value.code) == (500, "internal") and "secret" not in str(refused.value)
    assert "secret-shop" in str(logged[-1].facts)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
ODD = st.text("/.~:%s3filehtp@[]*#a\\", max_size=12)
ADDRESSES = st.text(max_size=40) | st.builds(
    "READ{}{}".format, st.sampled_from(["", "photos", "escape", "x/.."]), ODD | st.just("")
)
OUTPUTS = ADDRESSES.map(lambda text: text.replace("READ", "WRITE"))
PLACES = st.fixed_dictionaries({"manifest": ADDRESSES, "output": OUTPUTS})
REQUESTS = st.fixed_dictionaries(
    {"manifest": ADDRESSES | JSON, "output": OUTPUTS | JSON},
    optional={
        "preset": st.just("fake") | JSON,
        "renditions": st.lists(st.sampled_from(["amazon-main", "x"])) | JSON,
        "settings": st.dictionaries(st.sampled_from([*SAFE_SETTINGS, "recipe.weights"]), JSON, max_size=3) | JSON,
    },
)


@hypothesis.given(body=PLACES | REQUESTS | JSON)
@hypothesis.settings(max_examples=400, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_any_json_is_allowed_or_refused_in_a_sentence(fake_preset: str, roots: tuple[Path, Path], body: Any) -> None:
    """And what is allowed lies below the roots, wherever links lead."""
    read, write = map(str, roots)
    offer = Offer((read,), (write,), 1, {"fake": fake_preset}, {"amazon-main": "amazon-main"}, {})
    if isinstance(body, dict):
        for name in ("manifest", "output"):
            if isinstance(body.get(name), str):
                body[name] = body[name].replace("READ", f"{read}/").replace("WRITE", f"{write}/")
    try:
        allowed = offer.check(body)
    except RequestRefused as refused:
        assert 400 <= refused.status < 500 and "hidden" not in str(refused)
    else:
        assert f"{allowed.manifest.uri}/".startswith(f"{os.path.realpath(read)}/")
        assert allowed.output.uri.startswith(f"{os.path.realpath(write)}/")


def test_bodies_that_are_no_request(service_with_jobs: Any) -> None:
    service = service_with_jobs
    bodies = (b"", b"{", b"[" * 60_000, b"[]", b'{"manifest": NaN}', b"x" * 70_000)
    for body, status in zip(bodies, (400, 400, 400, 400, 400, 413), strict=True):
        answer = post(service, body)
        assert answer.status == status and answer.json.keys() == {"code", "message"}, answer.body
    assert post(service, b"{}", Content_Type="text/plain").status == 415  # what a page's form could send
    for job_id in ("nonsense", "..%2f..%2fetc", "20261130T101010.123Z-abcdef", "x" * 3000):
        assert service.get(f"/v1/jobs/{job_id}").json["code"] == "not_found"
        assert service.request("DELETE", f"/v1/jobs/{job_id}").status == 404
    assert not [line for line in service.log if "traceback" in line]


def test_a_service_takes_no_jobs_unless_told_to(service: Any, matteline: Any, tmp_path: Path) -> None:
    answer = post(service, {"manifest": "/x", "output": "/y"})
    assert (answer.status, answer.json["code"]) == (404, "jobs") and "--output-root" in answer.json["message"]
    assert "/v1/jobs" not in service.get("/openapi.json").json["paths"]
    done = matteline("serve", "--port", "0", "--output-root", str(tmp_path))
    assert done.returncode == 2 and "--allow-root" in done.stderr
    done = matteline("serve", "--port", "0", "--output-root", "https://example.com/x")
    assert done.returncode == 2, done.stderr


@pytest.fixture
def slow(start_service: Callable[..., Any], make_photos: MakePhotos, tmp_path: Path) -> Callable[[], Any]:
    """Starts services with the same roots, whose jobs take a while: one photo per index part."""
    make_photos(tmp_path / "read", PHOTOS)
    (tmp_path / "write").mkdir()
    settings = ("--set", "compute.rows_per_block=1", "--set", "compute.rows_per_part=1", *EVERY)
    places = ("--allow-root", str(tmp_path / "read"), "--output-root", str(tmp_path / "write"))
    return lambda: start_service(*places, *settings)


def test_one_job_at_a_time_that_can_be_stopped_and_continued(slow: Callable[[], Any], tmp_path: Path) -> None:
    service = slow()
    asked = {"manifest": str(tmp_path / "read"), "output": str(tmp_path / "write" / "a")}
    job_id = post(service, asked).json["id"]
    wait_for(service, job_id, has_begun)
    assert service.gauge("jobs") == 1
    answer = post(service, asked)
    assert (answer.status, answer.json["code"]) == (409, "busy")
    answer = post(service, asked | {"output": str(tmp_path / "write" / "b")})
    assert answer.status == 503 and answer.headers["Retry-After"]
    assert service.request("DELETE", f"/v1/jobs/{job_id}").status == 202
    state = wait_for(service, job_id, is_over)
    assert (state["exit_code"], state["said"]) == (4, "stopped") and "send the same request again" in state["error"]
    done = state["progress"]["ok"] + state["progress"]["review"]
    assert 0 < done < PHOTOS
    state = wait_for(service, post(service, asked).json["id"], is_over)
    assert state["exit_code"] == 0 and done <= state["progress"]["done_before"] < PHOTOS
    assert len(list((tmp_path / "write" / "a" / "cutouts").iterdir())) == PHOTOS


def test_a_job_outlives_a_service_that_is_killed_and_ends_with_one_that_is_stopped(
    slow: Callable[[], Any], tmp_path: Path
) -> None:
    first = slow()
    asked = {"manifest": str(tmp_path / "read"), "output": str(tmp_path / "write" / "a")}
    job_id = post(first, asked).json["id"]
    wait_for(first, job_id, has_begun)
    first.process.kill()
    second = slow()
    state = second.get(f"/v1/jobs/{job_id}").json
    assert state["verdict"] == "running", state
    assert post(second, asked | {"output": str(tmp_path / "write" / "b")}).status == 503  # the other job still counts
    assert second.request("DELETE", f"/v1/jobs/{job_id}").status == 202
    assert wait_for(second, job_id, is_over)["exit_code"] == 4
    continued = wait_for(second, post(second, asked).json["id"], has_begun)
    assert second.end() == 0
    third = slow()
    state = third.get(f"/v1/jobs/{continued['id']}").json
    assert (state["verdict"], state["exit_code"]) == ("over", 4), state
    assert [one["id"] for one in third.get("/v1/jobs").json["jobs"]] == [continued["id"], job_id]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_job_whose_process_is_killed_is_told_and_continued(slow: Callable[[], Any], tmp_path: Path) -> None:
    service = slow()
    asked = {"manifest": str(tmp_path / "read"), "output": str(tmp_path / "write" / "a")}
    job_id = post(service, asked).json["id"]
    wait_for(service, job_id, has_begun)
    record = json.loads((tmp_path / "write" / "_matteline-jobs" / f"{job_id}.json").read_text())
    os.kill(int(record["process"].rpartition("/")[2].partition("@")[0]), signal.SIGKILL)
    state = wait_for(service, job_id, lambda state: state["verdict"] in {"over", "dead"} and state["exit_code"] is not None)
    assert state["exit_code"] == 1 and "SIGKILL" in state["error"]
    assert service.post("/v1/cutout", (tmp_path / "read" / "photo-000.jpg").read_bytes()).status == 200
    assert wait_for(service, post(service, asked).json["id"], is_over)["exit_code"] == 0
    assert len(list((tmp_path / "write" / "a" / "cutouts").iterdir())) == PHOTOS


def test_jobs_on_s3(
    start_service: Callable[..., Any], s3: Any, make_photos: MakePhotos, fake_preset: str, tmp_path: Path
) -> None:
    bucket = s3.make_bucket()
    for path in make_photos(tmp_path, 3):
        s3.put(bucket, f"catalog/{path.name}", path.read_bytes())
    settings = [part for name, value in s3.settings.items() for part in ("--set", f"storage.{name}={value}")]
    roots = ("--allow-root", f"s3://{bucket}/catalog", "--output-root", f"s3://{bucket}/made")
    service = start_service("--preset", fake_preset, *roots, *settings)
    for manifest, output in (
        (f"s3://{bucket}/", "x"),
        (f"s3://{bucket}/catalog/../other", "x"),
        (f"s3://{bucket}/catalog", "../x"),
    ):
        assert post(service, {"manifest": manifest, "output": f"s3://{bucket}/made/{output}"}).status == 403
    answer = post(service, {"manifest": f"s3://{bucket}/catalog", "output": f"s3://{bucket}/made/spring"})
    state = wait_for(service, answer.json["id"], is_over)
    assert state["exit_code"] == 0, state
    assert len(s3.keys(bucket, "made/spring/cutouts/")) == 3
    written = b"".join(s3.get(bucket, key) for key in s3.keys(bucket, "made/_matteline-jobs/")).decode()
    assert s3.secret not in written + json.dumps(state) + "".join(service.log)


def test_a_job_that_never_began_is_told(tmp_path: Path) -> None:
    """Its service's machine is gone, so nobody can have recorded its end."""
    record = JobRecord(
        **{"id": new_run_id(), "manifest": "m", "output": "o", "manifest_uri": str(tmp_path / "m"), "preset": "fake"},
        **{"output_uri": str(tmp_path / "o"), "process": "another-boot/1/77@5.00"},
        submitted_at=now(),
    )
    state = state_of(record, Files())
    assert (state["verdict"], state["progress"], state["exit_code"]) == ("starting", None, None)
    old = record.model_copy(update={"submitted_at": "2026-01-01T00:00:00+00:00"})
    assert state_of(old, Files())["verdict"] == "dead"
    assert state_of(old.model_copy(update={"process": this_process()}), Files())["verdict"] == "starting"


def test_a_job_of_a_taken_output_is_told_nothing_of_the_machine(tmp_path: Path) -> None:
    output = Output.at(str(tmp_path), Files())
    record = JobRecord(
        **{"id": new_run_id(), "manifest": "m", "output": "o", "manifest_uri": str(tmp_path / "m"), "preset": "fake"},
        **{"output_uri": str(tmp_path), "submitted_at": now()},
    )
    with Lease(output, new_run_id()) as held, pytest.raises(LeaseHeld) as raised:
        Lease(output, new_run_id())
    assert held.owner in str(raised.value)
    ended = record.model_copy(update={"exit_code": raised.value.exit_code, "error": str(raised.value)})
    state = state_of(ended, Files())
    assert (state["verdict"], state["said"], state["exit_code"]) == ("over", "another run uses this output", 5)
    assert "send the same request again" in state["error"] and held.owner not in json.dumps(state)
    run = RunRecord(record.id, "m", "fake", "fake", 1, 0)
    run.close(raised.value.exit_code, f"this run's lease was taken over; it is held by {held.owner}")
    run.write(output)
    output.files.write(output.layout.recipe, b"{}")
    state = state_of(record, Files())
    assert (state["verdict"], state["exit_code"]) == ("over", 5) and held.owner not in json.dumps(state)


def test_sentences_name_only_places_of_the_client() -> None:
    record = JobRecord(
        id="x",
        manifest="photos/m.csv",
        output="out/a",
        manifest_uri="/srv/real/photos/m.csv",
        output_uri="/srv/real/photos",
        preset="fake",
        submitted_at="2026-11-30T10:00:00+00:00",
    )
    text = "/srv/real/photos/m.csv is not '/home/me/.cache/x.bin' or s3://other/key; see https://a.example/b, or out/a"
    assert told(text, record) == "photos/m.csv is not '…' or …; see …, or out/a"
    spaced = """cannot read '/home/me/my photos/x.bin' or "~/my cache/y", it's 'photos/a b' of 's3://x/a b'"""
    assert told(spaced, record) == """cannot read '…' or "…", it's 'photos/a b' of '…'"""
    assert told("/srv/real/photos is full: 5/6 GB, read/write", record) == "out/a is full: 5/6 GB, read/write"


def progress_of(items: int, ok: int, done_before: int = 0) -> RunProgress:
    return RunProgress("run", "running", items, done_before, ok, 0, 0, 0, 0.0)


@pytest.mark.skipif(not hasattr(os, "setpriority"), reason="no priorities")
def test_a_job_yields_to_requests_but_not_while_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "getpriority", lambda *_: 3)
    monkeypatch.setattr(os, "setpriority", lambda which, who, value: lowered.append((which, value)))
    for progress, whose in (
        ([progress_of(100, 0), progress_of(100, 9)], os.PRIO_PGRP),
        ([progress_of(120, 0, done_before=30), progress_of(120, 9, done_before=30)], os.PRIO_PGRP),
        ([progress_of(101, 0)], None),
        ([progress_of(101, 0), progress_of(101, 1), progress_of(101, 50)], os.PRIO_PROCESS),
    ):
        lowered.clear()
        yielding = process._Yielding(Compute(local_items=100))
        for one in progress:
            yielding(one)
        assert lowered == ([] if whose is None else [(whose, 13)])


def test_systems_without_process_groups_and_niceness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on Windows."""
    for module, name in ((os, "setpriority"), (os, "killpg"), (signal, "SIGKILL")):
        monkeypatch.delattr(module, name)
    monkeypatch.setattr(process, "Path", lambda _: tmp_path / "oom_score_adj")
    process._end_first()
    process._Yielding(Compute())(progress_of(7, 0))
    killed: list[bool] = []
    jobs._kill(SimpleNamespace(pid=1, kill=lambda: killed.append(True)))  # type: ignore[arg-type]
    assert killed == [True]
