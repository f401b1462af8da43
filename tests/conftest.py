"""What many tests share: photos made from a seed, a fake model's preset, one Ray and one S3 server a session."""

from __future__ import annotations

import gc
import io
import logging
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.config.job import Storage
from pipeline.storage.files import Files

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # idle OpenMP threads spin on the cores of the other processes
NICENESS = "RAY_worker_niceness"
os.environ.setdefault(NICENESS, "0")  # beside tests that compute, workers at nice 15 would wait for minutes

# Machines are shared and slow at times; time is not what these tests are about.
hypothesis.settings.register_profile("matteline", deadline=None)
hypothesis.settings.load_profile("matteline")

TESTS = Path(__file__).resolve().parent
LONG = {"test_graph.py", "test_growing.py", "test_readme.py", "test_loop.py", "test_openvino.py", "test_fuzz_kinds.py"}
LONG |= {"test_segmenter_sharing.py", "test_driver.py"}
"""Files, beside those of ``jobs``, of a minute and more."""


def load_module(name: str, path: Path) -> ModuleType:
    """A helper module of the tests, by its path: tests are no package."""
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bars_module = load_module("bars", TESTS / "bars.py")


@pytest.fixture
def bars(request: pytest.FixtureRequest) -> Any:
    """``bars.at_most(name, value, limit)``, ``bars.at_least(…)``: a measured number that has to hold; see ``bars.py``."""
    return bars_module.Bars(request.config.stash.setdefault(bars_module.KEPT, []))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs of the command first: with files spread over processes, a long one that comes last works alone."""
    items.sort(key=lambda item: not (item.path.is_relative_to(TESTS / "jobs") or item.path.name in LONG))


PROCESS_DIED = 6
"""Exit status of the tests when one of their processes died; see the Makefile. pytest itself uses 0 to 5."""

died: list[str] = []


def pytest_testnodedown(node: Any, error: object) -> None:
    """Print how a test process that died has ended, and the free memory: a crash looks otherwise than a lack of memory."""
    if error:
        status = node.gateway._io.popen.wait(60)
        memory = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()[2] if sys.platform == "linux" else ""
        died.append(node.gateway.id)
        print(f"\n{node.gateway.id}: exit status {status}, where a negative one is a signal; {memory}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell failed tests from a process that died."""
    if died:
        session.exitstatus = PROCESS_DIED


seconds_per_file: dict[str, float] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add the time of a test's set-up, call or tear-down to its file."""
    name = report.nodeid.split("::")[0]
    seconds_per_file[name] = seconds_per_file.get(name, 0.0) + report.duration


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the ten slowest files of a long run."""
    if sum(seconds_per_file.values()) > 60:
        terminalreporter.section("ten slowest files")
        for name, seconds in sorted(seconds_per_file.items(), key=lambda pair: -pair[1])[:10]:
            terminalreporter.write_line(f"{seconds:7.1f} s  {name}")


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """After pytest's own last line: the bars, and how many of them hold."""
    kept = config.stash.get(bars_module.KEPT, [])
    if kept:
        print(bars_module.table(kept))


@pytest.fixture(scope="session")
def golden_weights() -> ModuleType:
    """The maker of stand-in weights files."""
    return load_module("golden_weights", TESTS / "goldens" / "golden_weights.py")


@pytest.fixture(scope="session")
def browser() -> ModuleType:
    """Headless Chromium, if there is one; see ``browser.py``."""
    return load_module("browser", TESTS / "browser.py")


@pytest.fixture(scope="session")
def ray_session(s3: Any) -> Iterator[None]:
    """One Ray for all runs of this process: starting it costs seconds. Its workers have the credentials of ``s3``."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False, object_store_memory=400 * 2**20)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def small_runs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs on Ray are for tests that ask for ``ray_session``. All others share one worker process, as in one program."""
    from pipeline.run import gpus, worker_process

    if "ray_session" not in request.fixturenames:
        monkeypatch.setattr(gpus, "has_joined_ray", lambda: False)
    inherited = worker_process._surroundings

    def surroundings() -> tuple[int, dict[str, str]]:
        process, environment = inherited()
        return process, {name: value for name, value in environment.items() if name != "PYTEST_CURRENT_TEST"}

    monkeypatch.setattr(worker_process, "_surroundings", surroundings)


@pytest.fixture(autouse=True)
def without_signal_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command in this process does not take over its signals: a later Ctrl-C would end pytest with exit status 4."""
    from pipeline.run.signals import SignalHandler

    monkeypatch.setattr(SignalHandler, "install", lambda _: None)


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def matteline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """``matteline("run", …, cwd=tmp_path, env={})`` runs a command in this process."""
    from jobs.main import main

    def run(*arguments: str, cwd: Path = tmp_path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        with monkeypatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", ["matteline", *arguments])
            patch.chdir(cwd)
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            code: Any = 0
            try:
                main()
            except SystemExit as end:
                code = end.code or 0
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def own_process(tmp_path: Path) -> Command:
    """``own_process("run", …, cwd=tmp_path, env={})`` runs a command as a user does: in a process and on a Ray of its own."""

    def run(*arguments: str, cwd: Path = tmp_path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [MATTELINE, *arguments],
            cwd=cwd,
            env=environment_of_a_user(env),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return run


MATTELINE = str(Path(sys.executable).with_name("matteline"))


def environment_of_a_user(changes: dict[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without credentials and without its Ray, but with the niceness of Ray's workers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
    return kept | {NICENESS: os.environ[NICENESS]} | (changes or {})


@pytest.fixture(scope="session")
def own_environment() -> Callable[..., dict[str, str]]:
    """``own_environment({…})``: the environment of a process that starts as a user's does, with these changes."""
    return environment_of_a_user


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real S3 server on loopback that checks credentials."""
    server = load_module("s3_server", TESTS / "s3_server.py")
    with server.s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[logging.LogRecord]]:
    """What the package logs from info on, whatever other tests and libraries have made of the loggers."""
    from pipeline.log import log

    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", records.append)
    monkeypatch.setattr(log, "disabled", False)
    monkeypatch.setattr(log, "handlers", [handler])
    before = log.level
    log.setLevel(logging.INFO)
    yield records
    log.setLevel(before)


def photo(seed: int, width: int = 160, height: int = 120) -> np.ndarray:
    """A bright ellipse on a dim, noisy ground: (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    cx, cy = width * rng.uniform(0.4, 0.6), height * rng.uniform(0.4, 0.6)
    inside = ((x - cx) / (width * rng.uniform(0.15, 0.3))) ** 2 + ((y - cy) / (height * rng.uniform(0.15, 0.3))) ** 2 < 1
    ground = rng.integers(20, 60, (height, width, 3))
    return np.where(inside[..., None], rng.integers(190, 250, 3), ground).astype(np.uint8)


@pytest.fixture(scope="session")
def make_photos() -> Callable[..., list[Path]]:
    """``make_photos(folder, count)`` writes ``photo-000.jpg`` …, of different sizes."""

    def make(folder: Path, count: int, first: int = 0) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for number in range(first, first + count):
            path = folder / f"photo-{number:03}.jpg"
            Image.fromarray(photo(number, 120 + 7 * (number % 9), 90 + 11 * (number % 5))).save(path, quality=90)
            paths.append(path)
        return paths

    return make


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals from a tenth of the resamples, which take seconds per score; ``quality/test_intervals.py`` has all of them."""
    monkeypatch.setattr("pipeline.quality.intervals.RESAMPLES", 100)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """No garbage collector, so that what is in a reference cycle stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session")
def fake_preset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A preset of one's own for the model that needs no weights, with a refiner as quick."""
    path = tmp_path_factory.mktemp("presets") / "fake.yaml"
    path.write_text(
        "about: for tests\nlicence: none\ncommercial: true\nsize_mb: 0\nsource: none\n"
        "recipe:\n  model: fake\n  frame_px: 64\n  refiner: guided\n  estimate: false\n"
    )
    return str(path)


@pytest.fixture(scope="session")
def tiny_detectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of detectors with few, random weights, by ``detector.model``."""
    makers, folder = load_module("tiny_detectors", TESTS / "tiny_detectors.py"), tmp_path_factory.mktemp("detectors")
    return {
        "grounding-dino": makers.make_grounding_dino(folder / "grounding-dino"),
        "owlv2": makers.make_owlv2(folder / "owlv2"),
    }


FAKE_SETTINGS = {
    **{"name": "fake", "fingerprint": "0" * 64, "recipe": {"frame_px": 64}, "output_name": None, "outputs": ["cutout", "mask"]},
    **{"renditions": {}, "review_below": 0.85, "folders": [], "complete": True},
}
"""What a run records of the fake model, about."""


@pytest.fixture(scope="session")
def fake_settings() -> dict[str, Any]:
    """The content of an output's ``recipe.json``."""
    return FAKE_SETTINGS


@pytest.fixture(scope="session")
def make_output() -> Callable[..., None]:
    """``make_output(output, count)``: an index of ``count`` items ``i0``, … and a failed one. The first three have objects.
    ``grow`` widens the mask of the first.
    """
    from pipeline.imaging.png import encode_cutout, encode_mask
    from pipeline.output.index import write_part
    from pipeline.output.layout import output_path
    from pipeline.output.settings import write_settings
    from pipeline.schema import INDEX

    def make(output: Any, count: int = 60, *, grow: int = 0, photos: Path | None = None, failed: int = 1) -> None:
        rows = []
        for number in range(count):
            mask = np.zeros((30, 40), np.uint8)
            mask[5:25, 5 : 25 + (grow if number == 0 else 0)] = 255
            mask_path, cutout_path = (output_path(one, f"i{number}") for one in ("mask", "cutout"))
            if number < 3:
                output.write(output.layout.uri(mask_path), encode_mask(mask))
                output.write(output.layout.uri(cutout_path), encode_cutout(np.full((30, 40, 3), 90, np.uint8), mask))
            row = {"item_id": f"i{number}", "output_name": f"i{number}", "status": "ok", "quality": number / count}
            row |= {"reasons": [], "finished_at": 1, "image_uri": f"{photos}/{number}.png" if photos else None}
            row |= {"mask_path": mask_path, "cutout_path": cutout_path}
            rows.append(row | {"mask_sha256": f"{grow if number == 0 else 0}-{number}"})
        gone = {"status": "failed", "error_code": "fetch", "error_detail": "<b>gone</b>", "finished_at": 1}
        for name in (f"bad{number or ''}" for number in range(failed)):
            rows.append(gone | {"item_id": name, "output_name": name})
        write_part(output, pa.Table.from_pylist(rows, INDEX))
        write_settings(output, FAKE_SETTINGS)

    return make


@dataclass(frozen=True)
class Where:
    """A place to test in: ``root`` is an empty folder or prefix."""

    root: str
    files: Files
    kind: str

    def put(self, name: str, data: bytes) -> str:
        uri = f"{self.root}/{name}"
        self.files.write(uri, data)
        return uri


@pytest.fixture
def local(tmp_path: Path) -> Where:
    return Where(str(tmp_path / "root"), Files(), "local")


@pytest.fixture
def remote(s3: Any) -> Where:
    s3.make_bucket("storage-tests")
    return Where(f"s3://storage-tests/{secrets.token_hex(6)}/root", Files(Storage(**s3.settings)), "s3")


@pytest.fixture(params=["local", "s3"])
def where(request: pytest.FixtureRequest) -> Where:
    """Both, one after the other."""
    found: Where = request.getfixturevalue("local" if request.param == "local" else "remote")
    return found


Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Web:
    """A web server whose answers a test scripts: one a request, the last one again and again."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path and headers of every request."""

    def say(self, *answers: Answer) -> None:
        self.answers[:] = answers
        self.seen.clear()


@pytest.fixture
def web() -> Iterator[Web]:
    """Headers are sent as scripted, so a Content-Length may lie."""
    state = Web("")
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # S3 clients wait for its "100 Continue" before a body

        def answer(self) -> None:
            with lock:
                state.seen.append((self.command, self.path, dict(self.headers)))
                status, headers, body = state.answers.pop(0) if len(state.answers) > 1 else state.answers[0]
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_DELETE = answer

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture
def fake_s3(web: Web) -> Callable[[], Files]:
    """S3 spoken by the scripted server."""

    def make() -> Files:
        return Files(Storage(endpoint_url=web.url, key="k", secret="s3cr3t-of-the-test", region="us-east-1"))

    return make


@pytest.fixture
def stage_context(tmp_path: Path, fake_preset: str) -> Callable[..., Any]:
    """``stage_context(["limits.item_s=60"], files=…, ledger=…)``: a context for stages that run without Ray."""
    from pipeline.config.job import load_job
    from pipeline.output.output import Output
    from pipeline.run.context import StageContext
    from pipeline.storage.allowlist import AllowList

    def make(settings: Sequence[str] = (), files: Files | None = None, **fields: Any) -> StageContext:
        job = load_job(manifest="manifest", output=str(tmp_path), preset=fake_preset, overrides=settings)
        output = Output.at(str(tmp_path), files or Files())
        return StageContext(job, output, "run", fields.pop("allowlist", AllowList(())), **fields)

    return make
