from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config.recipe import ESTIMATOR_SHA256
from pipeline.errors import WeightsError
from pipeline.models.estimator import (
    BUNDLED,
    SIDE_PX,
    Predict,
    combine_logits,
    expected_dice,
    load_estimator,
    load_network,
    make_input,
)

CPU = torch.device("cpu")
S = 320


def disc(x: float = S / 2, radius: float = 80) -> torch.Tensor:
    """Return p of a disc, (S, S)."""
    rows, columns = np.mgrid[:S, :S] + 0.5
    return torch.from_numpy(np.clip((radius - np.hypot(columns - x, rows - S / 2)) / 3 + 0.5, 0, 1).astype(np.float32))


def photo(p: torch.Tensor) -> np.ndarray:
    """Return a photo of the disc in orange on grey, (S, S, 3) uint8."""
    alpha = p.numpy()[..., None]
    noise = np.random.default_rng(0).normal(0, 3, (S, S, 3))
    return np.clip(alpha * [230, 120, 20] + (1 - alpha) * [170, 170, 175] + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def network() -> Predict:
    """Provide the network with the bundled weights, in PyTorch."""
    network = load_network()
    return lambda x: combine_logits(network(x))


def test_the_bundled_weights_are_the_pinned_ones_and_small() -> None:
    assert hashlib.sha256(BUNDLED.read_bytes()).hexdigest() == ESTIMATOR_SHA256
    assert BUNDLED.stat().st_size < 3_000_000


def test_the_input_has_colours_and_the_map() -> None:
    frames = np.stack([photo(disc())] * 2)
    x = make_input(torch.stack([disc(), disc(100)]), frames)
    assert x.shape == (2, 4, SIDE_PX, SIDE_PX)
    assert x[:, :3].min() >= -1 and x[:, :3].max() <= 1
    middle = SIDE_PX // 2
    orange = torch.tensor([230 / 127.5 - 1, 120 / 127.5 - 1, 20 / 127.5 - 1, 1.0])
    torch.testing.assert_close(x[0, :, middle, middle], orange, atol=0.1, rtol=0)
    assert x[1, 3].mean() == pytest.approx(float(disc(100).mean()), rel=0.01)


@pytest.mark.parametrize("side", [128, 512, 1024])
def test_frames_of_any_size_have_the_same_score(side: int, network: Predict) -> None:
    p = torch.nn.functional.interpolate(disc()[None, None], size=(side, side), mode="bilinear")[0]
    frame = torch.nn.functional.interpolate(
        torch.from_numpy(photo(disc())).permute(2, 0, 1)[None].float(), size=(side, side), mode="bilinear"
    )
    frames = frame.permute(0, 2, 3, 1).round().to(torch.uint8)
    expected = expected_dice(network, disc()[None], photo(disc())[None])
    assert float(expected_dice(network, p, frames)) == pytest.approx(float(expected), abs=0.1)


def test_a_good_mask_scores_higher_than_a_bad_one(network: Predict) -> None:
    """Bad masks: inverted, half missing, beside the object."""
    p, frames = disc(), photo(disc())
    halved = p.clone()
    halved[:, : S // 2] = 0
    scores = [float(expected_dice(network, one[None], frames[None])) for one in (p, 1 - p, halved, disc(S / 2 + 90))]
    assert scores[0] > 0.8
    assert max(scores[1:]) < scores[0] - 0.3


def test_a_batch_equals_its_items(network: Predict) -> None:
    maps, frames = torch.stack([disc(), disc(100), 1 - disc()]), np.stack([photo(disc())] * 3)
    alone = torch.cat([expected_dice(network, maps[[row]], frames[[row]]) for row in range(3)])
    torch.testing.assert_close(expected_dice(network, maps, frames), alone, atol=1e-5, rtol=0)


def test_the_graph_predicts_the_same(network: Predict) -> None:
    graph = load_estimator(CPU)
    maps, frames = torch.stack([disc(), disc(100)]), np.stack([photo(disc())] * 2)
    torch.testing.assert_close(expected_dice(graph, maps, frames), expected_dice(network, maps, frames), atol=1e-5, rtol=0)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    tensors = load_file(BUNDLED)
    tensors["head.1.weight"] = tensors["head.1.weight"][:, :5].contiguous()
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="does not hold weights of the estimator: head.1.weight"):
        load_network(tmp_path / "other.safetensors")
