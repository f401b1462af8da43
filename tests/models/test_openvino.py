"""Networks in OpenVINO against PyTorch, and the cache of converted graphs."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.models.engines import conversions, convert, graph_cache
from pipeline.models.engines.conversions import graph_name, making, needs_conversion
from pipeline.models.engines.convert import OpenVinoModel
from pipeline.models.engines.openvino import has_bf16, has_openvino
from pipeline.models.mvanet.fuse import fuse_conv_bn
from pipeline.models.mvanet.network import BEN2, MVANET, MVANet, Variant

pytestmark = pytest.mark.skipif(not has_openvino(), reason="OpenVINO is not installed")

SIDE = 128


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of graphs that tests share, because converting a network takes long."""
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture
def fused(small_network: Any) -> Callable[[Variant], MVANet]:
    def make(variant: Variant) -> MVANet:
        network: MVANet = small_network(variant)
        fuse_conv_bn(network)
        return network.requires_grad_(False)

    return make


class Doubled(torch.nn.Module):
    """A network that converts quickly."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x[:, :1]


def compile_model(build: Callable[[], Any], cache: Path | None = None, precision: str = "fp32", side: int = SIDE) -> Any:
    return OpenVinoModel(build, "a" * 64, side, precision, threads=2, cache=cache)


def never() -> Any:
    raise AssertionError("the graph is in the cache, so the network must not be built")


def folders(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


@pytest.mark.parametrize(("variant", "side"), [(BEN2, 128), (MVANET, 384)], ids=["instance norm", "batch norm"])
def test_logits_equal_pytorchs(fused: Any, variant: Variant, side: int, kept: Path) -> None:
    network, x = fused(variant), torch.randn(2, 3, side, side)
    with torch.inference_mode():
        before = network(x)
    logits = compile_model(lambda: network, kept, side=side)(x)
    assert logits.shape == before.shape and logits.dtype == torch.float32
    assert (logits - before).abs().max() <= 1e-5 * max(1.0, float(before.abs().max()))
    with torch.inference_mode():
        assert torch.equal(network(x), before), "an export leaves placeholders in the network's caches"


@pytest.mark.skipif(not has_bf16(), reason="this CPU has no bf16 instructions")
def test_bf16_is_close_but_not_equal(fused: Any, kept: Path) -> None:
    network, x = fused(MVANET), torch.randn(1, 3, 384, 384)
    with torch.inference_mode():
        exact = network(x).sigmoid()
    difference = (compile_model(lambda: network, kept, "bf16", 384)(x).sigmoid() - exact).abs()
    assert 1e-5 < difference.mean() < 0.02


def test_bf16_is_refused_on_a_cpu_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "has_bf16", lambda: False)
    with pytest.raises(ConfigError, match="no bf16 instructions"):
        compile_model(never, precision="bf16")


def test_a_graph_is_converted_once(tmp_path: Path) -> None:
    x = torch.randn(1, 3, SIDE, SIDE)
    first = compile_model(Doubled, tmp_path)(x)
    assert torch.equal(compile_model(never, tmp_path)(x), first)
    (folder,) = folders(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["graph.bin", "graph.xml", "sha256.json"]


@pytest.mark.parametrize("name", ["graph.bin", "graph.xml", "sha256.json"])
def test_a_damaged_graph_is_converted_again(tmp_path: Path, name: str) -> None:
    x = torch.randn(1, 3, SIDE, SIDE)
    first = compile_model(Doubled, tmp_path)(x)
    (damaged,) = tmp_path.glob(f"*/{name}")
    damaged.write_bytes(damaged.read_bytes()[:-5])
    assert torch.equal(compile_model(Doubled, tmp_path)(x), first)
    assert torch.equal(compile_model(never, tmp_path)(x), first)


def test_a_graph_that_another_process_deletes_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 3, SIDE, SIDE)
    first = compile_model(Doubled, tmp_path)(x)
    is_intact, deleted = graph_cache._is_intact, []

    def check_and_lose(folder: Path) -> bool:
        intact = is_intact(folder)
        if not deleted:
            deleted.append(shutil.rmtree(folder))
        return intact

    monkeypatch.setattr(graph_cache, "_is_intact", check_and_lose)
    assert torch.equal(compile_model(Doubled, tmp_path)(x), first) and deleted


def test_the_input_shape_is_fixed(tmp_path: Path) -> None:
    """With a dynamic shape OpenVINO needs twice the memory and is slower."""
    compiled = compile_model(Doubled, tmp_path)
    assert list(compiled.infer.request.model_inputs[0].get_partial_shape().to_shape()) == [1, 3, SIDE, SIDE]


def test_the_cache_has_one_graph_per_weights_and_shape(tmp_path: Path) -> None:
    for sha256, side in (("a" * 64, 128), ("b" * 64, 128), ("a" * 64, 256)):
        OpenVinoModel(Doubled, sha256, side, "fp32", threads=2, cache=tmp_path)
    assert len(folders(tmp_path)) == 3


@pytest.mark.parametrize("changed", ["GRAPH_VERSION", "openvino", "torch", "timm"])
def test_another_version_has_another_graph(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = graph_name("a" * 64, SIDE)
    assert before == graph_name("a" * 64, SIDE)
    if changed == "GRAPH_VERSION":
        monkeypatch.setattr(conversions, changed, conversions.GRAPH_VERSION + 1)
    else:
        versions = conversions.version
        monkeypatch.setattr(conversions, "version", lambda library: "0.0" if library == changed else versions(library))
    assert graph_name("a" * 64, SIDE) != before


def test_a_conversion_is_foreseen(recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATTELINE_CACHE", str(tmp_path))
    asked = recipe("mvanet", frame_px=SIDE, weights_sha256="a" * 64)
    assert needs_conversion(asked, "auto") and needs_conversion(asked, "openvino")
    assert not needs_conversion(asked, "torch") and not needs_conversion(recipe("onnx"), "auto")
    compile_model(Doubled, tmp_path / "graphs")
    assert not needs_conversion(asked, "auto"), "it is in the cache"


def test_a_conversion_says_about_how_long_it_takes(logged: list[Any]) -> None:
    assert "about 20 s, once" in making(380_000_000) and "some seconds, once" in making(20_000_000)
    OpenVinoModel(Doubled, "", SIDE, "fp32", threads=1, cache=None, weights_bytes=380_000_000)
    assert logged[0].getMessage() == making(380_000_000)


def test_a_model_works_without_a_writable_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    logits = compile_model(Doubled, tmp_path / "file" / "graphs")(torch.randn(1, 3, SIDE, SIDE))
    assert logits.shape == (1, 1, SIDE, SIDE)


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_a_graphs_mapped_weights_use_no_memory(tmp_path: Path) -> None:
    conv = torch.nn.Conv2d(3, 1, 63, padding=31)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    network = compile_model(lambda: torch.nn.Sequential(conv).requires_grad_(False), tmp_path / "link")
    (path,) = tmp_path.glob("real/*/graph.bin")
    maps = Path("/proc/self/smaps").read_text()
    resident = re.findall(rf"^.* {re.escape(str(path))}\n(?:\S+: .*\n)*?Rss: +(\d+) kB", maps, re.MULTILINE)
    assert resident and not any(int(kb) for kb in resident)
    x = torch.randn(1, 3, SIDE, SIDE)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), conv(x), atol=1e-4, rtol=0)
