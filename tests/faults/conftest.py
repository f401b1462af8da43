"""What the fault tests share: photos on a disk and on S3, the proxy before it, and the table at the end."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from PIL import Image, PngImagePlugin

HERE = Path(__file__).resolve().parent
ITEMS = 80
MARKED = "item/marked"


def load(name: str) -> ModuleType:
    """A helper module of these tests: tests are no package."""
    if f"faults_{name}" not in sys.modules:
        spec = importlib.util.spec_from_file_location(f"faults_{name}", HERE / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = sys.modules[f"faults_{name}"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[f"faults_{name}"]


class Catalog(NamedTuple):
    """Photos and their manifest; ``marked`` is a manifest with one picture more, on which a fault can be hung."""

    manifest: str
    marked: str
    items: list[str]


@pytest.fixture(scope="session")
def trial_module() -> ModuleType:
    return load("trial")


@pytest.fixture(scope="session")
def catalog(tmp_path_factory: pytest.TempPathFactory, make_photos: Callable[..., list[Path]]) -> Catalog:
    """Photos on the local disk."""
    folder = tmp_path_factory.mktemp("catalog")
    paths = make_photos(folder / "photos", ITEMS)
    inject = load("inject/sitecustomize")
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", inject.MARK_BYTES.decode())
    Image.new("RGB", (120, 90), inject.MARK).save(folder / "photos" / "mark.png", pnginfo=note)
    items = [(f"item/{number:03}", f"photos/{path.name}") for number, path in enumerate(paths)]
    for name, rows in (("manifest", items), ("marked", [*items[:50], (MARKED, "photos/mark.png"), *items[50:]])):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("item_id", "image_uri"), *rows])
    return Catalog(str(folder / "manifest.csv"), str(folder / "marked.csv"), [item_id for item_id, _ in items])


@pytest.fixture(scope="session")
def bucket(s3: Any, catalog: Catalog) -> tuple[str, Catalog]:
    """The same catalog in a bucket: the bucket's name and the manifest there."""
    name, client, folder = s3.make_bucket(), s3.client(), Path(catalog.manifest).parent
    for path in [*(folder / "photos").iterdir(), *folder.glob("*.csv")]:
        client.put_object(Bucket=name, Key=str(path.relative_to(folder)), Body=path.read_bytes())
    return name, catalog._replace(manifest=f"s3://{name}/manifest.csv", marked=f"s3://{name}/marked.csv")


@pytest.fixture(scope="session")
def proxy_module() -> ModuleType:
    return load("proxy")


@pytest.fixture
def rule(proxy_module: ModuleType) -> Any:
    """Makes a rule of the proxy's."""
    return proxy_module.Rule


@pytest.fixture
def proxy(s3: Any, proxy_module: ModuleType) -> Iterator[Any]:
    """Between the run and the store."""
    with proxy_module.Proxy(s3.port, seed=3) as running:
        yield running


@pytest.fixture(params=["ray", "process"])
def engine(request: pytest.FixtureRequest) -> str:
    """What a run works on: Ray, or one worker process."""
    return str(request.param)


@pytest.fixture
def on_disk(
    request: pytest.FixtureRequest,
    trial_module: ModuleType,
    catalog: Catalog,
    fake_preset: str,
    bars: Any,
    tmp_path: Path,
    engine: str,
) -> Callable[..., Any]:
    """``on_disk(fault, **more)``: a trial with everything on the local disk."""
    rows = request.config.stash.setdefault(trial_module.ROWS, [])

    def make(fault: str, *, output: Path | None = None, **more: Any) -> Any:
        folder = tmp_path / secrets.token_hex(4)
        place = trial_module.Disk(str(output or folder / "out"))
        doomed = more.get("doomed", {})
        manifest, items = (catalog.marked, [*catalog.items, MARKED]) if doomed else (catalog.manifest, catalog.items)
        name = f"{fault}, without Ray" if engine == "process" else fault
        return trial_module.Trial(name, place, manifest, fake_preset, folder, items, bars, rows, engine=engine, **more)

    return make


@pytest.fixture
def on_s3(
    request: pytest.FixtureRequest,
    trial_module: ModuleType,
    s3: Any,
    proxy: Any,
    bucket: tuple[str, Catalog],
    fake_preset: str,
    bars: Any,
    tmp_path: Path,
) -> Callable[..., Any]:
    """``on_s3(fault, **more)``: a trial with everything on S3, behind the proxy."""
    rows = request.config.stash.setdefault(trial_module.ROWS, [])

    def make(fault: str, **more: Any) -> Any:
        name, found = bucket
        environment = s3.environment | {"AWS_ENDPOINT_URL": proxy.endpoint_url}
        place = trial_module.Bucket(f"s3://{name}/out-{secrets.token_hex(4)}", s3, environment)
        folder = tmp_path / secrets.token_hex(4)
        return trial_module.Trial(fault, place, found.manifest, fake_preset, folder, found.items, bars, rows, **more)

    return make


class Running:
    """A running ``cluster.py``; ``address`` is where a run joins it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.address = process.stdout.readline().strip()

    def do(self, deed: str) -> None:
        """One of its lines, and wait until it is done."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{deed}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == f"{deed}\n"

    def end(self) -> None:
        """Let it shut its machines down."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


@pytest.fixture
def machines() -> Iterator[Callable[..., Running]]:
    """``machines(trial, names, **more)``: ``cluster.py`` with the trial's environment, so that its workers know the faults."""
    started: list[subprocess.Popen[str]] = []

    def start(trial: Any, names: list[str], **more: Any) -> Running:
        command = [sys.executable, str(HERE / "cluster.py"), json.dumps({"machines": names} | more)]
        process = subprocess.Popen(
            command, env=trial.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        trial.sessions.append(process.pid)
        started.append(process)
        return Running(process)

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def mean_preset(tmp_path: Path) -> Callable[[Path, str], str]:
    """``mean_preset(folder, address)``: weights of a tiny ONNX network in a folder, and a preset that fetches them."""

    def make(folder: Path, address: str) -> str:
        content = load("../models/onnx_files").mean_model(64)
        (folder / "mean.onnx").write_bytes(content)
        path = tmp_path / "mean.yaml"
        path.write_text(
            "about: for tests\nlicence: none\ncommercial: true\nsize_mb: 0\nsource: none\n"
            "recipe:\n  model: onnx\n  frame_px: 64\n  refiner: guided\n  estimate: false\n"
            f"  weights: {address}/mean.onnx\n  weights_sha256: {hashlib.sha256(content).hexdigest()}\n"
        )
        return str(path)

    return make


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table of all faults, before the bars."""
    rows = config.stash.get(load("trial").ROWS, [])
    if rows:
        terminalreporter.write_line(load("trial").table(rows))
