"""The network in OpenVINO against itself in PyTorch, and the graphs that are kept on disk."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.models.engines import openvino as compiled
from pipeline.models.engines.openvino import OpenVinoModel, has_bf16, has_openvino
from pipeline.models.mvanet.fuse import fuse_conv_bn
from pipeline.models.mvanet.network import BEN2, MVANET, MVANet, Variant

pytestmark = pytest.mark.skipif(not has_openvino(), reason="OpenVINO is not installed")

SIDE = 128


@pytest.fixture
def folded(small_network: Any) -> Callable[[Variant], MVANet]:
    def make(variant: Variant) -> MVANet:
        network: MVANet = small_network(variant)
        fuse_conv_bn(network)
        return network.requires_grad_(False)

    return make


class Doubled(torch.nn.Module):
    """A network that is quickly made a graph of."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x[:, :1]


def freeze(make: Callable[[], Any], cache: Path | None = None, precision: str = "fp32", side: int = SIDE) -> OpenVinoModel:
    return OpenVinoModel(make, "a" * 64, side, precision, threads=2, cache=cache)


def never() -> Any:
    raise AssertionError("the graph is kept, so the network isn't needed")


@pytest.mark.parametrize(("variant", "side"), [(BEN2, 128), (MVANET, 384)], ids=["instance norm", "batch norm"])
def test_frozen_is_the_network(folded: Any, variant: Variant, side: int) -> None:
    network, x = folded(variant), torch.randn(2, 3, side, side)
    with torch.inference_mode():
        before = network(x)
    logits = freeze(lambda: network, side=side)(x)
    assert logits.shape == before.shape and logits.dtype == torch.float32
    assert (logits - before).abs().max() <= 1e-5 * max(1.0, float(before.abs().max()))
    with torch.inference_mode():
        assert torch.equal(network(x), before), "an export leaves placeholders in the network's caches"


@pytest.mark.skipif(not has_bf16(), reason="this CPU has no bf16 instructions")
def test_bf16_is_close_and_is_bf16(folded: Any) -> None:
    network, x = folded(MVANET), torch.randn(1, 3, SIDE, SIDE)
    with torch.inference_mode():
        exact = network(x).sigmoid()
    difference = (freeze(lambda: network, precision="bf16")(x).sigmoid() - exact).abs()
    assert 1e-5 < difference.mean() < 0.02


def test_bf16_is_refused_where_it_would_silently_be_fp32(folded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "has_bf16", lambda: False)
    with pytest.raises(ConfigError, match="no bf16 instructions"):
        freeze(never, precision="bf16")


def test_a_graph_is_made_once(tmp_path: Path) -> None:
    x = torch.randn(1, 3, SIDE, SIDE)
    first = freeze(Doubled, tmp_path)(x)
    assert torch.equal(freeze(never, tmp_path)(x), first)
    (kept,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert sorted(path.name for path in kept.iterdir()) == ["graph.bin", "graph.xml", "sha256.json"]


@pytest.mark.parametrize("name", ["graph.bin", "graph.xml", "sha256.json"])
def test_a_damaged_graph_is_made_anew(tmp_path: Path, name: str) -> None:
    x = torch.randn(1, 3, SIDE, SIDE)
    first = freeze(Doubled, tmp_path)(x)
    (damaged,) = tmp_path.glob(f"*/{name}")
    damaged.write_bytes(damaged.read_bytes()[:-5])
    assert torch.equal(freeze(Doubled, tmp_path)(x), first)
    assert torch.equal(freeze(never, tmp_path)(x), first)


def test_the_frame_is_fixed(tmp_path: Path) -> None:
    """What is left open can't be planned for: twice the memory, and slower."""
    compiled = freeze(Doubled, tmp_path)
    assert list(compiled.request.model_inputs[0].get_partial_shape().to_shape()) == [1, 3, SIDE, SIDE]


def test_other_weights_and_frames_have_graphs_of_their_own(tmp_path: Path) -> None:
    for sha256, side in (("a" * 64, 128), ("b" * 64, 128), ("a" * 64, 256)):
        OpenVinoModel(Doubled, sha256, side, "fp32", threads=2, cache=tmp_path)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 3


def test_without_a_place_to_keep_it_the_graph_is_made_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    logits = freeze(Doubled, tmp_path / "file" / "graphs")(torch.randn(1, 3, SIDE, SIDE))
    assert logits.shape == (1, 1, SIDE, SIDE)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's /proc")
def test_the_mapped_weights_of_a_graph_take_no_memory_of_the_process(tmp_path: Path) -> None:
    kernel = torch.nn.Conv2d(3, 1, 63, padding=31)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    network = freeze(lambda: torch.nn.Sequential(kernel).requires_grad_(False), tmp_path / "link")
    (kept,) = tmp_path.glob("real/*/graph.bin")
    maps = Path("/proc/self/smaps").read_text()
    held = [int(rss) for rss in re.findall(rf"^.* {re.escape(str(kept))}\n(?:\S+: .*\n)*?Rss: +(\d+) kB", maps, re.MULTILINE)]
    assert held and not any(held)
    x = torch.randn(1, 3, SIDE, SIDE)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), kernel(x), atol=1e-4, rtol=0)
