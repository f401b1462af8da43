from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipeline.errors import ConfigError, WeightsError
from pipeline.models.tensors import open_tensors
from pipeline.training.interpolate import interpolate, main


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"conv": torch.full((2, 3), value, dtype=torch.float16), "seen": torch.tensor(int(value))}


def test_every_tensor_lies_between() -> None:
    mixed = interpolate(weights(1), weights(3), 0.25)
    assert torch.equal(mixed["conv"], torch.full((2, 3), 1.5, dtype=torch.float16))
    assert mixed["seen"] == 3, "a counter is no weight"
    for share, value in ((0.0, 1), (1.0, 3)):
        assert torch.equal(interpolate(weights(1), weights(3), share)["conv"], weights(value)["conv"])


def test_a_share_above_1_is_refused() -> None:
    with pytest.raises(ConfigError, match="--share 60 must be from 0 to 1"):
        interpolate(weights(1), weights(3), 60)


def test_files_of_different_networks_are_refused() -> None:
    with pytest.raises(WeightsError, match="not of one network"):
        interpolate(weights(1), weights(3) | {"conv": torch.zeros(3, 2)}, 0.5)
    with pytest.raises(WeightsError, match="not of one network"):
        interpolate(weights(1), weights(3) | {"more": torch.zeros(1)}, 0.5)


def test_the_command_keeps_the_facts_of_the_fine_tuned_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after, out = (tmp_path / f"{name}.safetensors" for name in ("before", "after", "out"))
    save_file(weights(1), before)
    save_file(weights(3), after, {"step": "260"})
    monkeypatch.setattr(sys, "argv", ["interpolate", str(before), str(after), "--share", "0.6", "-o", str(out)])
    main()
    assert torch.equal(open_tensors(out)["conv"], interpolate(weights(1), weights(3), 0.6)["conv"])
    with safe_open(out, "pt") as file:
        facts = file.metadata()
    assert facts["step"] == "260"
    assert json.loads(facts["interpolated"]) == {"before_sha256": hashlib.sha256(before.read_bytes()).hexdigest(), "share": 0.6}
    monkeypatch.setattr(sys, "argv", ["interpolate", str(before), str(after), "--share", "60", "-o", str(out)])
    with pytest.raises(SystemExit):
        main()


def test_a_damaged_file_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged, out = tmp_path / "no.safetensors", tmp_path / "out.safetensors"
    damaged.write_bytes(b"no")
    monkeypatch.setattr(sys, "argv", ["interpolate", str(damaged), str(damaged), "-o", str(out)])
    with pytest.raises(SystemExit):
        main()
    said = " ".join(capsys.readouterr().err.split())
    assert "no.safetensors is neither a .safetensors nor a PyTorch weights file" in said
    assert not out.exists()
