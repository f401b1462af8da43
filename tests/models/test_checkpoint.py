"""Weights files: three layouts are accepted, every other key is refused by name."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import WeightsError
from pipeline.models.mvanet.checkpoint import LAYOUTS, load_mvanet, recognise
from pipeline.models.tensors import open_matching, open_tensors

CPU = torch.device("cpu")
NAMES = [layout.name for layout in LAYOUTS]
every_layout = pytest.mark.parametrize("layout", NAMES)
State = dict[str, torch.Tensor]


@pytest.fixture
def hollow(golden_weights: ModuleType) -> Callable[[str], State]:
    """Provide a layout's complete state with every tensor one number, expanded: its file has a few kilobytes."""

    def make(layout: str) -> State:
        return {
            key: torch.full((), 0.5).to(getattr(torch, dtype)).expand(shape)
            for key, (shape, dtype) in golden_weights.keys(layout).items()
        }

    return make


def save(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


def save_safetensors(state: State, path: Path) -> Path:
    """Write a safetensors file of zeros, as a sparse file."""
    names = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}
    header, offset = {}, 0
    for key, tensor in state.items():
        end = offset + tensor.numel() * tensor.element_size()
        header[key] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    return path


@every_layout
@pytest.mark.parametrize("wrapper", ["model_state_dict", "state_dict", None])
def test_published_layouts_are_recognised(layout: str, wrapper: str | None, hollow: Any, tmp_path: Path) -> None:
    state = hollow(layout)
    path = save({wrapper: state, "epoch": 80} if wrapper else state, tmp_path / "weights.pth")
    assert recognise(path) == layout


@every_layout
def test_safetensors_are_recognised_by_their_header(layout: str, hollow: Any, tmp_path: Path) -> None:
    state = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in hollow(layout).items()}
    assert recognise(save_safetensors(state, tmp_path / "weights.bin")) == layout


@every_layout
def test_a_wrapper_prefix_and_missing_buffers_are_accepted(layout: str, hollow: Any, tmp_path: Path) -> None:
    state = {
        f"module.{key}": tensor
        for key, tensor in hollow(layout).items()
        if not key.endswith(("relative_position_index", "num_batches_tracked"))
    }
    assert recognise(save(state, tmp_path / "weights.pth")) == layout


LEFTOVERS = (
    "multifieldcrossatt.linear5.weight",
    "multifieldcrossatt.linear6.bias",
    "multifieldcrossatt.attention.5.in_proj_weight",
    "dec_blk2.linear1.weight",
    "dec_blk4.attention.7.out_proj.bias",
)


@pytest.mark.parametrize("layout", ["ben2", "mvanet"])
def test_leftovers_of_training_are_dropped(layout: str, hollow: Any, tmp_path: Path) -> None:
    state = hollow(layout) | dict.fromkeys(LEFTOVERS, torch.zeros(()))
    assert recognise(save(state, tmp_path / "more.pth")) == layout
    fewer = {key: tensor for key, tensor in hollow(layout).items() if not key.startswith("sideout")}
    assert recognise(save(fewer, tmp_path / "fewer.pth")) == layout


@every_layout
@pytest.mark.parametrize("place", [0, 200, -1])
def test_a_missing_key_is_named(layout: str, place: int, hollow: Any, tmp_path: Path) -> None:
    state = hollow(layout)
    needed = [key for key in state if not key.startswith("sideout") and not key.endswith(("index", "tracked"))]
    del state[needed[place]]
    with pytest.raises(WeightsError, match=rf"Nearest is {layout}, but it lacks 1 .*{needed[place]}\)"):
        recognise(save(state, tmp_path / "weights.pth"))


@every_layout
def test_an_unknown_key_is_named(layout: str, hollow: Any, tmp_path: Path) -> None:
    state = hollow(layout) | {"sideout6.0.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match=rf"Nearest is {layout}, but it has 1 .*sideout6\.0\.weight"):
        recognise(save(state, tmp_path / "weights.pth"))


@every_layout
def test_a_wrong_shape_is_named(layout: str, hollow: Any, tmp_path: Path) -> None:
    state = hollow(layout)
    key = next(key for key in state if "qkv.weight" in key or "WindowAttention.Linear_1.weight" in key)
    state[key] = torch.zeros(()).expand(384, 129)
    with pytest.raises(WeightsError, match=rf"{key} has the shape \[384, 129\]; {layout} needs \[384, 128\]"):
        recognise(save(state, tmp_path / "weights.pth"))


def test_a_wrong_type_is_named(hollow: Any, tmp_path: Path) -> None:
    state = hollow("ben2")
    state["output.0.bias"] = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(WeightsError, match=r"output\.0\.bias has the type int64"):
        recognise(save(state, tmp_path / "weights.pth"))


def test_another_networks_file_is_refused_with_missing_and_unknown_keys(tmp_path: Path) -> None:
    state = {"stage1.conv.weight": torch.zeros(3), "stage1.conv.bias": torch.zeros(3)}
    with pytest.raises(WeightsError, match=r"ben2, mvanet, finegrain.*lacks \d{3} .*it has 2 .*stage1\.conv\.weight"):
        recognise(save(state, tmp_path / "u2net.pth"))


def test_a_number_that_is_not_finite_is_named(hollow: Any, tmp_path: Path) -> None:
    state = hollow("ben2")
    state["conv3.0.bias"] = torch.full((128,), torch.nan)
    with pytest.raises(WeightsError, match=r"conv3\.0\.bias has numbers that are not finite"):
        load_mvanet(save(state, tmp_path / "weights.pth"), device=CPU, dtype=torch.bfloat16)


def test_loading_copies_every_number_as_float32(hollow: Any, golden_weights: ModuleType, tmp_path: Path) -> None:
    """Loaded weights do not depend on the file any more."""
    state = hollow("finegrain")
    key = "Pyramid.Sum.PyramidL2.Sum.PyramidL3.MCRM.Parallel_3.TiledCrossAttention.FeedForward.Linear_2.weight"
    for name in state:
        if name.endswith("running_var"):
            state[name] = torch.ones(state[name].shape)
    state[key] = torch.from_numpy(golden_weights.golden_array(key, tuple(state[key].shape))).half()
    path = save(state, tmp_path / "weights.pth")
    network = load_mvanet(path, device=CPU, dtype=torch.float32)
    path.write_bytes(b"")
    assert torch.equal(network.mcrm[2].ffn.fc2.weight, state[key].float())
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())
    assert all(not buffer.is_meta for buffer in network.buffers())


class RunsCode:
    """Unpickled, it creates a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_does_not_run(zipped: bool, tmp_path: Path) -> None:
    trap, path = tmp_path / "trap", tmp_path / "weights.pth"
    content = {"model_state_dict": {"output.0.bias": RunsCode(trap)}}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match=r"more than tensors|bare pickle"):
        recognise(path)
    assert not trap.exists()
    if not zipped:
        pickle.loads(path.read_bytes())
        assert trap.exists(), "the trap must work"


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
@pytest.mark.parametrize("share", [0.2, 0.9, 0.999])
def test_a_cut_off_file_is_refused(kind: str, share: float, hollow: Any, tmp_path: Path) -> None:
    path = (save if kind == "pth" else save_safetensors)(hollow("ben2"), tmp_path / f"weights.{kind}")
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(WeightsError, match="cut off or damaged"):
        recognise(path)


def compressed_zip() -> bytes:
    """Return a zip bomb in the form of a PyTorch file: 64 MB of zeros."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("weights/data.pkl", "w", force_zip64=True) as entry:
            for _ in range(64):
                entry.write(bytes(2**20))
        archive.writestr("weights/version", "3")
    return packed.getvalue()


def lying_header(shape: list[int], offsets: list[int], content: bytes) -> bytes:
    text = json.dumps({"output.0.bias": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
    return struct.pack("<Q", len(text)) + text + content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>Please log in</html>", "is a web page"),
        (b"\n <html>404</html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (bytes(1000), "neither a .safetensors nor a PyTorch"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "neither a .safetensors nor a PyTorch"),
        (struct.pack("<Q", 2**60) + b"{}", "cut off or damaged"),
        (struct.pack("<Q", 10) + b"{}", "cut off or damaged"),
        (lying_header([2**40], [0, 2**42], b"1234"), "cut off or damaged"),
        (lying_header([2**40], [0, 4], b"1234"), "cut off or damaged"),
        (lying_header([2**62, 2**62], [0, 4], b"1234"), "cut off or damaged"),
        (lying_header([1], [0, 4], b"1234 and more"), "cut off or damaged"),
        (lying_header([1], [8, 4], b"12345678"), "cut off or damaged"),
        (compressed_zip(), "holds a compressed entry"),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",  # a zip file contains the time
)
def test_other_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        recognise(path)
    assert str(path) in str(caught.value)


def test_an_onnx_file_is_refused_with_its_presets(tmp_path: Path) -> None:
    path = tmp_path / "weights.onnx"
    path.write_bytes(b"\x08\x06\x12\x07pytorch" + bytes(100))
    with pytest.raises(WeightsError, match="is an ONNX file; use a preset"):
        recognise(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="can't be read: No such file"):
        recognise(tmp_path / "nothing.pth")
    with pytest.raises(WeightsError, match="can't be read: Is a directory"):
        recognise(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, 2], "holds a list"), ({"state_dict": {"a": 1}}, "'a' is a int"), ({1: torch.zeros(1)}, "1 is a Tensor")],
)
def test_other_content_than_a_state_dict_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        open_tensors(save(content, tmp_path / "weights.pth"))


def test_a_safetensors_header_of_any_length_is_recognised(tmp_path: Path) -> None:
    """The file begins with the header's length, which may look like the start of a web page, a pickle or a zip file."""
    for length in (ord("<"), 0x80, int.from_bytes(b"PK\x03", "little")):
        text = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(length)
        if len(text) > length:
            text = b"{}".ljust(length)
        path = tmp_path / "weights.safetensors"
        path.write_bytes(struct.pack("<Q", length) + text + (np.float32(7).tobytes() if b'"a"' in text else b""))
        assert [tensor.item() for tensor in open_tensors(path).values()] == ([7.0] if b'"a"' in text else [])


@pytest.mark.parametrize(
    "odd",
    [
        *(
            torch.zeros(4, device="meta"),
            torch.zeros(4).to_sparse(),
            torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.quint8),
        ),
        torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)]),
    ],
)
def test_tensors_of_no_plain_layout_are_refused(odd: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="'odd' is a sparse, nested, quantised or empty tensor"):
        open_tensors(save({"odd": odd}, tmp_path / "weights.pth"))


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, torch.bool])
def test_our_own_files_hold_floats(dtype: torch.dtype, tmp_path: Path) -> None:
    """A flipped bit in a header turns floats into integers of the same size."""
    network = torch.nn.Linear(2, 1)
    path = save({key: slot.detach().to(dtype) for key, slot in network.state_dict().items()}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=f"has the type {str(dtype).removeprefix('torch.')}; save the weights as"):
        open_matching(path, network, "the network", "write it again")
