"""Weights in every format: safetensors, PyTorch files, checkpoints of trainings, and ONNX files."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kinds import Kind, Wrong
from mutations import damage, damage_json
from safetensors.torch import save

from pipeline.config.recipe import Recipe
from pipeline.errors import SegmentError
from pipeline.models.check import check_weights
from pipeline.models.load import load_model
from pipeline.models.mvanet.checkpoint import recognise
from pipeline.models.refiners.cgm import check_cgm, load_cgm
from pipeline.models.tensors import load_tensors, open_matching
from pipeline.paths import WEIGHTS
from pipeline.training import checkpoint
from pipeline.training.recipe import load_training

TESTS = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
DTYPES = ("F32", "F16", "BF16", "F64", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "C64", "F4", "X", "", 1)


class Small(torch.nn.Module):
    """A network with a few tensors of every shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2)


def read_small(path: Path) -> None:
    """Load a file into the small network, whose numbers are then finite."""
    network = Small()
    load_tensors(network, open_matching(path, network, "the small network", "write it again"), path, torch.float32)
    if not all(torch.isfinite(slot).all() for slot in network.state_dict().values()):
        raise Wrong("a number is not finite")


def small_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {key: slot for key, slot in Small().state_dict().items() if not key.endswith("num_batches_tracked")}


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header of a safetensors file, and the bytes after it."""
    end = 8 + struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:end]), data[end:]


def with_header(header: bytes, rest: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + rest


def safetensors_kind() -> Kind:
    samples = {"small": save(small_state()), "half": save({key: one.half() for key, one in small_state().items()})}
    samples |= {"cgm": (WEIGHTS / "cgm.safetensors").read_bytes()}
    lite = (WEIGHTS / "mvanet-lite.safetensors").read_bytes()
    samples["lite"] = lite[: 8 + struct.unpack("<Q", lite[:8])[0]]  # its numbers become a hole in the file
    sizes = {"lite": len(lite)}

    def read(name: str, data: bytes) -> None:
        path, sample = Path("weights.safetensors"), name.partition(": ")[2]
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            file.write(data)
            if sample in sizes and len(data) > 4096:
                file.truncate(max(len(data), sizes[sample]))
        if sample == "lite":
            recognise(path)
        elif sample == "cgm":
            check_cgm(path)
            load_cgm(path, device=CPU, dtype=torch.float32)
        else:
            read_small(path)

    def header(rng: random.Random, name: str) -> bytes:
        facts, rest = header_of(samples[name])
        if rng.random() < 0.5:
            return with_header(damage_json(rng, facts), rest)
        entry = facts[rng.choice([key for key in facts if key != "__metadata__"])]
        match rng.randrange(3):
            case 0:
                entry["dtype"] = rng.choice(DTYPES)
            case 1:
                entry["shape"] = [rng.choice((0, 1, -1, 2**31, 2**62, 3)) for _ in range(rng.choice((0, 1, 2, 4, 70)))]
            case _:
                entry["data_offsets"] = [rng.choice((0, 4, len(rest), 2**63, -4)), rng.choice((0, 4, len(rest), 2**64 - 1))]
        return with_header(json.dumps(facts).encode(), rest)

    return Kind(samples, read, {"header": header})


def hollow(layout: str) -> dict[str, torch.Tensor]:
    """Return a published layout's state with every tensor one number, expanded: its file has few kilobytes."""
    names = {"ben2": "ben2_base.keys.json", "finegrain": "finegrain_box_segmenter.keys.json"}
    keys = json.loads((TESTS / "goldens" / names[layout]).read_text())
    return {key: torch.full((), 0.5).to(getattr(torch, dtype)).expand(shape) for key, (shape, dtype) in keys.items()}


def pickled(state: Any) -> bytes:
    sink = io.BytesIO()
    torch.save(state, sink)
    return sink.getvalue()


ODD_STATES: tuple[Any, ...] = (
    *(torch.zeros(4, device="meta"), torch.zeros(4).to_sparse(), torch.zeros(4, dtype=torch.complex64), torch.zeros(0)),
    *(
        torch.zeros(4, dtype=torch.int64),
        torch.zeros(4, dtype=torch.bool),
        torch.full((4,), float("nan")),
        torch.ones(1).expand(10**9),
    ),
    *(torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.quint8), torch.zeros(4).to(torch.float8_e4m3fn), torch.zeros(())),
    *(torch.nn.Parameter(torch.zeros(4)), torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)]), torch.zeros(4).conj()),
    *(
        torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.tensor([1.0]), (1, 4)),
        {},
        [],
        None,
        3,
        "x",
        {"a": {}},
    ),
)


def pytorch_kind() -> Kind:
    states: dict[str, Any] = {"ben2": hollow("ben2"), "finegrain": {"state_dict": hollow("finegrain")}, "small": small_state()}
    samples = {name: pickled(state) for name, state in states.items()}

    def read(name: str, data: bytes) -> None:
        path = Path("weights.pth")
        path.unlink(missing_ok=True)  # the former one may still be mapped
        path.write_bytes(data)
        if name.endswith("small"):
            read_small(path)
        else:
            recognise(path)

    def entries(rng: random.Random, name: str) -> bytes:
        """Damage entries of the archive, whose checksums are then right: the pickle and the storages."""
        sink = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(samples[name])) as old, zipfile.ZipFile(sink, "w") as new:
            chosen = rng.choice((*[old.namelist()[0]] * 3, *old.namelist()[:6]))
            for entry in old.namelist():
                content = old.read(entry)
                new.writestr(entry, damage(rng, content, (), OPCODES) if entry == chosen else content)
        return sink.getvalue()

    def values(rng: random.Random, name: str) -> bytes:
        state = dict(states[name].get("state_dict", states[name]))
        state[rng.choice([*state, "other"])] = rng.choice(ODD_STATES)
        return pickled(rng.choice((state, {"state_dict": state}, {"model_state_dict": state, "epoch": 3})))

    return Kind(samples, read, {"entries": entries, "values": values})


OPCODES = (
    *(pickle.REDUCE, pickle.BUILD, pickle.MEMOIZE, pickle.BINPUT + b"\x01", pickle.BINGET + b"\x01", pickle.STOP, pickle.MARK),
    *(pickle.TUPLE, pickle.EMPTY_DICT, pickle.NONE, pickle.BININT + b"\xff\xff\xff\x7f", pickle.LONG1 + b"\x08" + b"\x7f" * 8),
    *(b"cos\nsystem\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n"),
    *(b"ctorch\nSize\n", b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n", b"cbuiltins\nbytearray\n", pickle.BINPERSID),
)


def checkpoint_kind() -> Kind:
    """Return the kind of the checkpoint with which a training resumes."""
    recipe = load_training("mvanet-lite")
    network = Small()
    optimiser = torch.optim.AdamW(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    averaged = {name: slot.clone() for name, slot in network.state_dict().items() if slot.is_floating_point()}
    progress, data = checkpoint.Progress(step=3, spent_s=1.5), checkpoint.Data(items_sha256="0" * 64, items=5, composites=True)
    checkpoint.save(Path("whole.safetensors"), recipe, progress, data, network, averaged, optimiser)
    samples = {"checkpoint": Path("whole.safetensors").read_bytes()}

    def read(_: str, data: bytes) -> None:
        path = Path("checkpoint.safetensors")
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        step = checkpoint.peek(path).step
        slots: dict[str, torch.Tensor] = {name: slot.clone() for name, slot in averaged.items()}
        fresh = Small()
        found = checkpoint.load(path, fresh, slots, torch.optim.AdamW(fresh.parameters()))
        if found.step != step or found.step < 0 or not 0 <= found.spent_s < float("inf"):
            raise Wrong(f"the progress {found}")

    def header(rng: random.Random, name: str) -> bytes:
        facts, rest = header_of(samples[name])
        if rng.random() < 0.5:
            return with_header(damage_json(rng, facts), rest)
        key = rng.choice(("recipe", "progress"))
        facts["__metadata__"][key] = damage_json(rng, json.loads(facts["__metadata__"][key])).decode(errors="replace")
        return with_header(json.dumps(facts).encode(), rest)

    return Kind(samples, read, {"header": header})


def onnx_kind() -> Kind:
    files = _onnx_files()
    ones, weights = files.field(1, "location") + files.field(2, "weights.bin"), np.ones((1, 3, 1, 1), np.float32)
    conv = files.model(
        [files.node("Conv", ["image", "w"], "c"), files.node("Sigmoid", ["c"], "mean")],
        [files.value_info("image", ["n", 3, 32, 32], files.FLOAT)],
        [files.value_info("mean", ["n", 1, 32, 32], files.FLOAT)],
        [files.tensor("w", weights)],
    )
    samples = {"mean": files.mean_model(), "fixed": files.mean_model(batch=1), "conv": conv}
    tokens = (
        files.field(13, ones),
        files.field(14, 1),
        files.field(5, files.field(6, b"")),
        b"Loop",
        b"If",
        b"ReduceMean",
        b"\xff" * 9,
    )
    recipe = Recipe(name="test", model="onnx", weights="file", frame_px=32)

    def read(_: str, data: bytes) -> None:
        path = Path("model.onnx")
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        check_weights(recipe, path)
        model = load_model(recipe, path, device="cpu", threads=1)
        try:
            found = model(np.zeros((2, 32, 32, 3), np.uint8))
        except SegmentError as error:
            raise error from error.__cause__
        if found.shape != (2, 32, 32) or found.dtype != torch.float32:
            raise Wrong(f"logits {found.shape}")

    def nested(rng: random.Random, name: str) -> bytes:
        """Return a graph in an attribute of a node, in a graph in an attribute of a node, and so on."""
        graph = b""
        for _ in range(rng.choice((3, 30, 300))):
            graph = files.field(1, files.field(4, "If") + files.field(5, files.field(1, "then_branch") + files.field(6, graph)))
        return samples[name] + files.field(7, graph)

    def dims(rng: random.Random, _: str) -> bytes:
        sizes: Mapping[str, Any] = {
            "size": rng.choice((0, 1, 32, 2**31, "s", 2**62)),
            "batch": rng.choice((0, 1, 2, "n", 2**40)),
            "kind": rng.choice((0, 1, 7, 8, 10, 99)),
            "channels": rng.choice((0, 1, 3, 4, 2**33)),
        }
        return files.mean_model(**sizes, out=rng.choice((None, [], ["n"], [1, 2, 32, 32], ["n", 1, 2**33, 8])))

    return Kind(samples, read, {"nested": nested, "dims": dims}, tokens, byte_share=0.7)


def _onnx_files() -> Any:
    import sys

    sys.path.append(str(TESTS / "models"))
    import onnx_files

    return onnx_files


KINDS = {
    "safetensors": safetensors_kind,
    "PyTorch files": pytorch_kind,
    "training checkpoints": checkpoint_kind,
    "ONNX files": onnx_kind,
}
