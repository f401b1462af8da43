"""A segmenter shared by threads, forked and pickled: each picture gets its own mask, or one sentence says why not."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from pipeline import Segmenter
from pipeline.errors import ConfigError
from pipeline.models.forward import one_thread

THREADS = 8


def picture(number: int) -> Image.Image:
    image = Image.new("RGB", (160, 120), (230, 230, 225))
    left = 5 + 9 * number
    ImageDraw.Draw(image).ellipse((left, 25, left + 60, 95), fill=(200, 40, 40))
    return image


PICTURES = [picture(number) for number in range(4)]


@pytest.mark.parametrize(
    ("preset", "engine"),
    [("u2netp", "openvino"), ("u2netp", "onnxruntime"), ("mvanet-lite", "openvino"), ("mvanet-lite", "torch")],
)
def test_each_thread_gets_the_mask_of_its_picture(preset: str, engine: str) -> None:
    segmenter = Segmenter(preset, engine=engine, threads=1)
    alone = [segmenter(one) for one in PICTURES]
    assert len({one.alpha.tobytes() for one in alone}) == len(PICTURES)
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(len(PICTURES)) as pool:
        for mine, wanted in zip(pool.map(segmenter, PICTURES), alone, strict=True):
            assert np.array_equal(mine.alpha, wanted.alpha)
            assert mine.score == wanted.score
    assert torch.get_num_threads() == threads


def test_tasks_of_asyncio_may_share_it() -> None:
    segmenter = Segmenter("u2netp", threads=1)
    alone = [segmenter(one).alpha for one in PICTURES]

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(asyncio.to_thread(segmenter, one) for one in PICTURES))

    for mine, wanted in zip(asyncio.run(all_at_once()), alone, strict=True):
        assert np.array_equal(mine.alpha, wanted)


def test_it_is_loaded_again_where_it_is_unpickled() -> None:
    segmenter = Segmenter("u2netp", threads=1, sharpen=2.0)
    wanted = segmenter(PICTURES[0])
    for other in (pickle.loads(pickle.dumps(segmenter)), copy.deepcopy(segmenter)):
        assert other.recipe == segmenter.recipe and other.model is not segmenter.model
        assert np.array_equal(other(PICTURES[0]).alpha, wanted.alpha)
    again = pickle.loads(pickle.dumps(wanted))
    assert np.array_equal(again.alpha, wanted.alpha) and again.quality == wanted.quality


def _answer(number: int) -> str:
    try:
        return f"{_shared[0](PICTURES[number]).quality:.4f}"
    except ConfigError as error:
        return str(error)


def _load(_: int = 0) -> str:
    try:
        return f"{Segmenter('u2netp', threads=1)(PICTURES[0]).quality:.4f}"
    except ConfigError as error:
        return str(error)


_shared: list[Segmenter] = []
"""What forked processes find in their memory."""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.parametrize("work", [_answer, _load])
def test_after_a_fork_there_is_a_sentence_and_no_hang(work: Any) -> None:
    _shared[:] = [Segmenter("u2netp", threads=1)]
    _shared[0](PICTURES[0])
    with multiprocessing.get_context("fork").Pool(1) as pool:
        said = pool.map_async(work, [0]).get(timeout=60)
    assert said[0].startswith("this process was forked from one that had loaded a model")
    assert "start them with spawn" in said[0]


FORKED_FIRST = """
import multiprocessing
from pipeline import Segmenter

def answer(number):
    return round(Segmenter("u2netp", threads=1)("examples/espresso.jpg").quality, 4)

with multiprocessing.get_context("fork").Pool(2) as pool:
    several = pool.map_async(answer, range(2)).get(timeout=200)
print(*several, answer(0))
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_processes_that_were_forked_before_a_model_was_loaded_load_their_own(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED_FIRST], cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.split())) == 1, done.stdout


def test_a_spawned_process_loads_its_own() -> None:
    wanted = _load()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map_async(_load, [0]).get(timeout=120) == [wanted]


def test_threads_leave_the_usual_number_of_threads_behind() -> None:
    """New threads get the number that was set last, also while others want one thread."""
    usual = torch.get_num_threads()
    found = []

    def work(_: int) -> None:
        with one_thread():
            assert torch.get_num_threads() == 1
        found.append(torch.get_num_threads())

    for _ in range(20):
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, range(4 * THREADS)))
    with ThreadPoolExecutor(1) as pool:
        found.append(pool.submit(torch.get_num_threads).result())
    assert set(found) == {usual}


def test_a_thread_that_began_while_others_wanted_one_thread_does_not_make_that_usual() -> None:
    """Its first operation in PyTorch has seen their number, and it keeps that."""
    before, usual = torch.get_num_threads(), 2
    torch.set_num_threads(usual)
    began, left = threading.Event(), threading.Event()

    def work() -> tuple[int, int]:
        torch.ones(3).add_(1)
        first = torch.get_num_threads()
        began.set()
        assert left.wait(20)
        with one_thread():
            pass
        return first, torch.get_num_threads()

    try:
        with ThreadPoolExecutor(1) as pool:
            with one_thread():
                found = pool.submit(work)
                assert began.wait(20)
            left.set()
            assert found.result() == (1, usual)
    finally:
        torch.set_num_threads(before)


def test_passes_in_pytorch_take_turns() -> None:
    segmenter = Segmenter("mvanet-lite", engine="torch", threads=1)
    real, inside, most = segmenter.run_pass.model, [0], [0]

    def model(frames: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.05)
        logits = real(frames)
        inside[0] -= 1
        return logits

    segmenter.run_pass.model = model
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(segmenter, PICTURES))) == 4
    assert most == [1]
