"""A run over a cluster as events: blocks are decoded, their pieces segmented, finished and committed; nodes come and go.

What is taken from the product: the order of work, one copy of the model a GPU with two calls in hand, tasks of one slot, later
stages before earlier ones, decoding held back by what waits for the model, index parts in the order of finishing, and a lost
node's pieces made again from their block. What is left out: the network, spilling, failed items, and waiting between tries.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

from buckets import GETS_S, PUTS_S, SPLIT_AFTER_S, Events, Line, Store
from workload import TIMES, Times, Work

IN_HAND = 2
"""Calls at a copy of the model: ``flow.CALLS_PER_GPU``."""

AHEAD = 8
"""Pieces a GPU that may wait for the model, or be on their way there; two blocks' where those are more."""

RESERVED, STAGES, COMMIT_CPUS = 0.5, 5, 0.25
"""Of Ray Data's allocation of slots to stages."""

A_BLOCK = 2
"""Tasks until a block's pieces are there: one cuts the manifest's rows into blocks, one decodes."""

EDGE = 0.15
"""Share of the items at the run's beginning and at its end that don't count for its speed: stages fill and empty."""


class What(IntEnum):
    EMITTED, MODELLED, FINISHED, LOST, BACK, LOADED = range(6)


class Stage(IntEnum):
    """What of a piece is there."""

    NOTHING, PIXELS, MASKS, ROWS, COMMITTED = range(5)


@dataclass(frozen=True)
class Setup:
    """A cluster of equal nodes with one GPU each, a store, and the run's settings."""

    gpus: int
    rows_per_part: int = 64
    cpus: int = TIMES["node"]["cpus"]
    """Slots of a node."""
    prefixes: int = 512
    """Folders that the objects' names are spread over: 256 a kind of object."""
    partitions: int = 1
    """Of a store that has seen no load before."""
    split_after_s: float = SPLIT_AFTER_S
    puts: int = 2
    """Objects an item."""
    life_s: float = 0.0
    """Of a node, on average; 0 for ever."""
    replace_s: float = TIMES["node"]["replace_s"]
    load_s: float = TIMES["node"]["load_s"]
    """From a node's start until its model works."""
    seed: int = 0


@dataclass
class Result:
    """What came of it."""

    items: int
    seconds: float = 0.0
    commits: list[tuple[float, int]] = field(default_factory=list)
    """When, and how many items were committed then."""
    finished: list[tuple[float, int]] = field(default_factory=list)
    """When, and how many items' objects were there then."""
    twice: int = 0
    """Items more than once through the model: every further time."""
    read_twice: int = 0
    """Items read and decoded again: a lost piece's whole block is."""
    losses: int = 0
    """Of nodes."""
    parts: int = 0
    tasks: int = 0
    pieces: int = 0
    uncommitted: int = 0
    """Items decoded and not committed at half-time: what a stop of the whole run costs."""
    busy: dict[str, float] = field(default_factory=dict)
    """Share of the time that each kind of resource was at work, by name."""

    @property
    def mean_items_per_s(self) -> float:
        """From the start to the end."""
        return self.items / self.seconds

    @property
    def items_per_s(self) -> float:
        """Without the run's beginning and end."""
        return rate(self.commits)


def rate(finished: list[tuple[float, int]]) -> float:
    """Items a second between the first and the last ``EDGE`` of them, from the end of one batch to that of another."""
    total, done = sum(count for _, count in finished), 0
    inside: list[tuple[float, int]] = []
    for when, count in sorted(finished):
        done += count
        if EDGE * total <= done <= (1 - EDGE) * total:
            inside.append((when, done))
    (start, before), (end, after) = inside[0], inside[-1]
    return (after - before) / (end - start)


def most_slots(cpus: int) -> int:
    """Of a cluster's, that decoding or finishing can have at once: Ray Data reserves some for every other stage.

    Half of all slots is divided equally over the five stages (cutting into blocks, decoding, the model, finishing,
    committing), one slot at least for a stage of whole ones; what the model's stage could have is free, as it needs a GPU.
    Of what is shared, a stage gets another slot as long as a slot and a third is left.
    """
    each = RESERVED * cpus / STAGES
    shared = cpus - 3 * max(1.0, each) - max(COMMIT_CPUS, each)
    return max(1, int(max(1.0, each) + max(0.0, shared - 1 / 3)))


class Simulation:
    """One run; call ``run`` once."""

    def __init__(self, work: Work, setup: Setup, times: Times | None = None) -> None:
        self.work, self.setup, self.times = work, setup, times or Times()
        self.events, self.driver = Events(), Line()
        self.puts = Store(PUTS_S, setup.prefixes, setup.partitions, setup.split_after_s, setup.seed)
        self.gets = Store(GETS_S, setup.prefixes, setup.partitions, setup.split_after_s, setup.seed)
        pieces, blocks = len(work.rows), len(work.first) - 1
        self.stage, self.place = bytearray(pieces), [-1] * pieces
        self.block_of = [block for block in range(blocks) for _ in range(work.first[block + 1] - work.first[block])]
        self.blocks: deque[int] = deque(range(blocks))
        self.to_model: deque[int] = deque()
        self.to_finish: deque[int] = deque()
        self.to_commit: list[int] = []
        self.rows_to_commit, self.rows_done = 0, 0
        self.at_decode, self.at_finish = 0, 0
        self.most = most_slots(setup.gpus * setup.cpus)
        self.coming, self.coming_to = 0, [0] * setup.gpus
        self.ahead = setup.gpus * max(AHEAD, 2 * -(-pieces // max(1, blocks)))
        self.life = [0] * setup.gpus
        self.slots: deque[tuple[int, int]] = deque()
        self.hands: deque[tuple[int, int]] = deque()
        self.gpu_free = [0.0] * setup.gpus
        self.decoding: list[set[int]] = [set() for _ in range(setup.gpus)]
        self.segmenting: list[set[int]] = [set() for _ in range(setup.gpus)]
        self.finishing: list[set[int]] = [set() for _ in range(setup.gpus)]
        self.read, self.modelled = bytearray(blocks), bytearray(pieces)
        self.random = random.Random(setup.seed)
        self.gpu_s, self.cpu_s = 0.0, 0.0
        self.result = Result(work.items, pieces=pieces)

    def run(self) -> Result:
        for node in range(self.setup.gpus):
            self._start(0.0, node)
        steps = {
            What.EMITTED: self._emitted,
            What.MODELLED: self._modelled,
            What.FINISHED: self._finished,
            What.LOST: self._lost,
            What.BACK: self._start,
            What.LOADED: self._loaded,
        }
        result, now = self.result, 0.0
        self._dispatch(now)
        while self.rows_done < result.items:
            now, what, facts = self.events.next()
            steps[What(what)](now, *facts)
            self._dispatch(now)
        result.seconds = result.commits[-1][0]
        self._account()
        return result

    def _account(self) -> None:
        result, setup, s = self.result, self.setup, self.result.seconds
        result.busy = {
            "GPUs": self.gpu_s / (s * setup.gpus),
            "CPUs": self.cpu_s / (s * setup.gpus * setup.cpus),
            "PUTs": self.puts.asked / (s * PUTS_S * len(self.puts.buckets)),
            "driver": self.driver.busy_s / s,
        }

    def _task(self, now: float, count: int = 1) -> float:
        """When the driver has sent a task, or some, on their way."""
        self.result.tasks += count
        return self.driver.serve(now, count * self.times.driver_s)

    def _dispatch(self, now: float) -> None:
        """Later stages first; decoding only as far ahead as the model follows."""
        while self.to_model and (hand := self._pop(self.hands)) is not None:
            self._segment(now, self.to_model.popleft(), *hand)
        most = self.most
        while self.to_finish and self.at_finish < most and (slot := self._pop(self.slots)) is not None:
            self._finish(now, self.to_finish.popleft(), *slot)
        while self.blocks and self.at_decode < most and len(self.to_model) + self.coming < self.ahead:
            if (slot := self._pop(self.slots)) is None:
                return
            self._decode(now, self.blocks.popleft(), *slot)

    def _pop(self, tickets: deque[tuple[int, int]]) -> tuple[int, int] | None:
        """A free place on a node that is still there."""
        while tickets:
            node, life = tickets.popleft()
            if self.life[node] == life:
                return node, life
        return None

    def _decode(self, now: float, block: int, node: int, life: int) -> None:
        """The whole block is decoded, also where only some of its pieces were lost."""
        first, last = self.work.first[block], self.work.first[block + 1]
        seconds = self.work.decode_s[first:last]
        start, total = self._task(now, A_BLOCK), sum(seconds)
        rows = sum(self.work.rows[first:last])
        end = max(start + total, self.gets.take(start, rows))
        self.result.read_twice += rows if self.read[block] else 0
        self.read[block] = 1
        stretch = (end - start) / total if total else 1.0
        self.decoding[node].add(block)
        self.at_decode += 1
        self.coming += last - first
        self.coming_to[node] += last - first
        self.cpu_s += total
        when = start
        for piece, piece_s in zip(range(first, last), seconds, strict=True):
            when += piece_s * stretch
            self.events.add(when, What.EMITTED, piece, node, life)

    def _emitted(self, now: float, piece: int, node: int, life: int) -> None:
        if self.life[node] != life:
            return
        self.coming -= 1
        self.coming_to[node] -= 1
        if self.stage[piece] == Stage.NOTHING:
            self.stage[piece], self.place[piece] = Stage.PIXELS, node
            self.to_model.append(piece)
        block = self.block_of[piece]
        if piece == self.work.first[block + 1] - 1:
            self.decoding[node].discard(block)
            self.at_decode -= 1
            self.slots.append((node, life))

    def _segment(self, now: float, piece: int, node: int, life: int) -> None:
        start = max(self._task(now), self.gpu_free[node])
        self.gpu_free[node] = start + self.work.model_s[piece]
        self.segmenting[node].add(piece)
        self.events.add(self.gpu_free[node], What.MODELLED, piece, node, life)

    def _modelled(self, now: float, piece: int, node: int, life: int) -> None:
        if self.life[node] != life:
            return
        self.gpu_s += self.work.model_s[piece]
        self.segmenting[node].discard(piece)
        self.hands.append((node, life))
        if self.modelled[piece]:
            self.result.twice += self.work.rows[piece]
        self.modelled[piece] = 1
        self.stage[piece], self.place[piece] = Stage.MASKS, node
        self.to_finish.append(piece)

    def _finish(self, now: float, piece: int, node: int, life: int) -> None:
        start = self._task(now)
        end = max(start + self.work.finish_s[piece], self.puts.take(start, self.setup.puts * self.work.rows[piece]))
        self.cpu_s += self.work.finish_s[piece]
        self.finishing[node].add(piece)
        self.at_finish += 1
        self.events.add(end, What.FINISHED, piece, node, life)

    def _finished(self, now: float, piece: int, node: int, life: int) -> None:
        if self.life[node] != life:
            return
        self.finishing[node].discard(piece)
        self.at_finish -= 1
        self.slots.append((node, life))
        self.stage[piece], self.place[piece] = Stage.ROWS, node
        self.to_commit.append(piece)
        self.rows_to_commit += self.work.rows[piece]
        self.result.finished.append((now, self.work.rows[piece]))
        if self.rows_to_commit >= self.setup.rows_per_part or self.rows_done + self.rows_to_commit == self.result.items:
            self._commit(now)

    def _commit(self, now: float) -> None:
        """One part: from here on its items are done, whatever is lost."""
        when = self.puts.take(self._task(now), 1)
        for piece in self.to_commit:
            assert self.stage[piece] == Stage.ROWS, "an item would be committed twice"
            self.stage[piece] = Stage.COMMITTED
        before, self.rows_done = self.rows_done, self.rows_done + self.rows_to_commit
        if before < self.result.items / 2 <= self.rows_done:
            self.result.uncommitted = self._under_way()
        self.result.commits.append((when, self.rows_to_commit))
        self.result.parts += 1
        self.to_commit, self.rows_to_commit = [], 0

    def _under_way(self) -> int:
        return sum(rows for rows, stage in zip(self.work.rows, self.stage, strict=True) if 0 < stage < Stage.COMMITTED)

    def _lost(self, now: float, node: int) -> None:
        """Without a warning: what lies on the node is made again from its blocks, what it was at is done by others."""
        self.life[node] += 1
        self.result.losses += 1
        for other in range(self.setup.gpus):
            for piece in self.segmenting[other] | self.finishing[other] if other != node else ():
                if self.place[piece] == node:
                    self.place[piece] = other  # which has read it already
        again = set(self.decoding[node])
        for piece, where in enumerate(self.place):
            if where == node and self.stage[piece] != Stage.COMMITTED:
                self.stage[piece] = Stage.NOTHING
                again.add(self.block_of[piece])
        # A set's order is that of its numbers here, but nobody should have to know that.
        self.to_model = deque(piece for piece in self.to_model if self.stage[piece] == Stage.PIXELS)
        self.to_model.extendleft(piece for piece in sorted(self.segmenting[node]) if self.stage[piece] == Stage.PIXELS)
        self.to_finish = deque(piece for piece in self.to_finish if self.stage[piece] == Stage.MASKS)
        self.to_finish.extendleft(piece for piece in sorted(self.finishing[node]) if self.stage[piece] == Stage.MASKS)
        self.to_commit = [piece for piece in self.to_commit if self.stage[piece] == Stage.ROWS]
        self.rows_to_commit = sum(self.work.rows[piece] for piece in self.to_commit)
        self.blocks.extendleft(sorted(again - set(self.blocks)))
        self.at_decode -= len(self.decoding[node])
        self.at_finish -= len(self.finishing[node])
        self.coming -= self.coming_to[node]
        self.coming_to[node] = 0
        for at_work in (self.decoding[node], self.segmenting[node], self.finishing[node]):
            at_work.clear()
        self.events.add(now + self.setup.replace_s, What.BACK, node)

    def _start(self, now: float, node: int) -> None:
        """A node joins: its slots work at once, its model when it is loaded."""
        life = self.life[node]
        self.slots.extend((node, life) for _ in range(self.setup.cpus))
        self.events.add(now + self.setup.load_s, What.LOADED, node, life)
        if self.setup.life_s:
            self.events.add(now + self.random.expovariate(1 / self.setup.life_s), What.LOST, node)

    def _loaded(self, now: float, node: int, life: int) -> None:
        if self.life[node] == life:
            self.gpu_free[node] = now
            self.hands.extend((node, life) for _ in range(IN_HAND))
