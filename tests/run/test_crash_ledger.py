from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DecodeError, ItemCrashed
from pipeline.run.crash_ledger import MAX_CRASHES, InMemoryLedger, IsolatedBatch, _deadlines


class Died(BaseException):
    """A process that ends: nothing after it is done, in particular no note is taken back."""


class Mortal(InMemoryLedger):
    """InMemoryLedger of processes that die by exception: what a dead one would still say is not heard."""

    def __init__(self) -> None:
        super().__init__()
        self.dead = False

    def end(self, keys: Sequence[str]) -> None:
        if not self.dead:
            super().end(keys)

    def survived(self, key: str) -> None:
        if not self.dead:
            super().survived(key)


def process(notes: Mortal, ids: list[str], step: Callable[[str], str]) -> list[str]:
    """What a stage does with a batch, once."""
    notes.dead = False
    attempts = IsolatedBatch(notes, "stage", ids, 60)

    def work(item_id: str) -> str:
        try:
            return step(item_id)
        except Died:
            notes.dead = True
            raise

    def alone(row: int) -> str:
        try:
            return attempts.run_one(row, lambda: work(ids[row]))
        except (ItemCrashed, DecodeError) as error:
            return error.code

    if attempts.one_by_one:
        results = [alone(row) for row in range(len(ids))]
    else:
        results = attempts.run_batch(lambda: [work(item_id) for item_id in ids])
    attempts.finish()
    return results


@settings(max_examples=50)
@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_poison_is_given_up_and_its_neighbours_live(poison: list[bool]) -> None:
    notes, ids, killed = Mortal(), [f"item-{number}" for number in range(len(poison))], dict.fromkeys(range(len(poison)), 0)

    def step(item_id: str) -> str:
        number = int(item_id.removeprefix("item-"))
        if poison[number]:
            killed[number] += 1
            raise Died
        return "ok"

    deaths = 0
    while True:
        try:
            results = process(notes, ids, step)
            break
        except Died:
            deaths += 1
            assert deaths <= MAX_CRASHES * len(poison), "every death must bring the batch nearer to its end"
    assert results == ["crash" if bad else "ok" for bad in poison]
    assert all(count <= MAX_CRASHES for count in killed.values())
    assert not notes.started, "nothing is left behind"


def test_an_item_is_not_to_blame_for_the_deaths_of_its_machine() -> None:
    notes, left = Mortal(), MAX_CRASHES - 1

    def step(item_id: str) -> str:
        nonlocal left
        if left:
            left -= 1
            raise Died
        return "ok"

    for _ in range(MAX_CRASHES - 1):
        with pytest.raises(Died):
            process(notes, ["a"], step)
    assert process(notes, ["a"], step) == ["ok"]


def test_a_plain_error_is_no_death() -> None:
    notes = Mortal()
    attempts = IsolatedBatch(notes, "stage", ["a", "b"], 60)

    def fail() -> str:
        raise DecodeError("no image")

    with pytest.raises(DecodeError):
        attempts.run_one(0, fail)
    assert attempts.run_one(1, lambda: "ok") == "ok"
    attempts.finish()
    assert not notes.started


def test_stages_do_not_mix_and_nothing_is_noted_without_a_ledger() -> None:
    notes = InMemoryLedger()
    IsolatedBatch(notes, "decode", ["a"], 60)
    assert IsolatedBatch(notes, "decode", ["a", "b"], 60).one_by_one
    assert not IsolatedBatch(notes, "segment", ["a"], 60).one_by_one
    assert IsolatedBatch(None, "decode", ["a"], 1e-9).run_one(0, lambda: 5) == 5
    assert IsolatedBatch(notes, "finish", [], 60).run_batch(lambda: 5) == 5


def test_items_run_together_and_after_a_crash_alone() -> None:
    calls: list[list[int]] = []

    def work(numbers: Sequence[int]) -> list[int]:
        calls.append(list(numbers))
        if list(numbers) == [1]:
            raise DecodeError("gone")
        return [10 * number for number in numbers]

    assert IsolatedBatch(None, "together", ["a", "b", "c"], 60).run_items(work) == [0, 10, 20]
    first, second, third = IsolatedBatch(InMemoryLedger({"alone/a": 1}), "alone", ["a", "b", "c"], 60).run_items(work)
    assert (first, third) == (0, 20) and isinstance(second, DecodeError)
    assert calls == [[0, 1, 2], [0], [1], [2]]


@pytest.mark.parametrize("work", ["time.sleep(60)", "re.match(r'(a+)+b', 'a' * 64)"], ids=["waits", "holds the lock"])
def test_work_beyond_its_deadline_ends_the_process(work: str) -> None:
    program = (
        "import re, time\n"
        "from pipeline.run.crash_ledger import IsolatedBatch, InMemoryLedger\n"
        "IsolatedBatch(InMemoryLedger(), 'stage', ['a', 'b'], 0.1).run_batch(lambda: 'in time')\n"
        f"IsolatedBatch(InMemoryLedger(), 'stage', ['a', 'b'], 0.2).run_one(0, lambda: {work})\n"
        "print('survived')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1 and "survived" not in done.stdout
    assert "Timeout" in done.stderr, "the traceback tells where it hung"


def test_a_process_that_dies_beside_the_items_is_not_repeated_for_ever() -> None:
    """Packing their pixels, say: every item alone lives, and yet the batch never comes through."""
    notes, ids = Mortal(), ["a", "b", "c"]
    for _ in range(MAX_CRASHES + 2 * len(ids) + 2):
        attempts = IsolatedBatch(notes, "stage", ids, 60)
        results = []
        if attempts.one_by_one:
            for row in range(len(ids)):
                try:
                    results.append(attempts.run_one(row, lambda: "ok"))
                except ItemCrashed as error:
                    results.append(error.code)
        if results == ["crash"] * 3:
            break
    else:
        raise AssertionError("never given up")
    attempts.finish()
    assert not notes.started


def test_an_item_that_kills_in_one_of_its_steps_is_found() -> None:
    """All that a stage does with an item is one attempt: an earlier success doesn't clear it of a later death."""
    notes = Mortal()
    notes.started = {"stage/a": 1}
    for deaths in range(1, MAX_CRASHES):
        attempts = IsolatedBatch(notes, "stage", ["a"], 60)
        assert attempts.crashes == [deaths]
        with pytest.raises(Died):
            attempts.run_one(0, lambda: (_ for _ in ()).throw(Died))
    with pytest.raises(ItemCrashed, match="3 processes crashed"):
        IsolatedBatch(notes, "stage", ["a"], 60).run_one(0, lambda: "ok")


def test_threads_that_help_move_the_deadline_of_the_work_and_set_none() -> None:
    isolated, known = IsolatedBatch(InMemoryLedger(), "stage", ["a"], 60), dict[int, float]()

    def beat() -> None:
        helper = threading.Thread(target=isolated.beat)
        helper.start()
        helper.join()

    def work() -> None:
        known.update(_deadlines._ends)
        beat()
        assert list(_deadlines._ends) == [threading.get_ident()]
        assert _deadlines._ends[threading.get_ident()] > known[threading.get_ident()]

    isolated.run_one(0, work)
    beat()
    assert not _deadlines._ends, "the work is over"
