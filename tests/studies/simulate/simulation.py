"""A discrete-event simulation of a run on a cluster whose nodes are lost and replaced.

Modelled as in the product: the order of work, one model actor per GPU with two calls in flight, tasks of one slot, later stages
before earlier ones, backpressure on decoding, index parts in the order of finishing, and lineage reconstruction: the pieces of
a lost node are made again from their block. Left out: the network, spilling, failed items, and the backoff between retries.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

from resources import GETS_S, PUTS_S, SPLIT_AFTER_S, Driver, Events, Store
from workload import TIMES, Times, Work

CALLS_PER_ACTOR = 2
"""As ``graph.CALLS_PER_GPU``."""

AHEAD = 8
"""Pieces per GPU that may wait for the model or be on their way to it; two blocks' pieces where those are more."""

RESERVED, STAGES, COMMIT_CPUS = 0.5, 5, 0.25
"""Ray Data's allocation of slots to stages: the reserved share of all slots, the stages that share it, and a commit's CPUs."""

TASKS_PER_BLOCK = 2
"""Tasks until a block's pieces exist: one cuts the manifest's rows into blocks, one decodes."""

EDGE = 0.15
"""Share of the items at the start, and at the end, that do not count for the speed: stages fill and empty."""


class Event(IntEnum):
    """What happens to a piece or a node."""

    DECODED, SEGMENTED, FINISHED, NODE_LOST, NODE_STARTED, MODEL_LOADED = range(6)


class Stage(IntEnum):
    """How far a piece is."""

    NOTHING, PIXELS, MASKS, ROWS, COMMITTED = range(5)


@dataclass(frozen=True)
class Setup:
    """A cluster of equal nodes with one GPU each, a store, and the run's settings."""

    gpus: int
    rows_per_part: int = 64
    cpus: int = TIMES["node"]["cpus"]
    """Slots per node."""
    prefixes: int = 512
    """Prefixes of the objects' names: 256 per kind of object."""
    partitions: int = 1
    """Partitions of the store at the start."""
    split_after_s: float = SPLIT_AFTER_S
    puts: int = 2
    """Objects per item."""
    life_s: float = 0.0
    """Mean seconds that a node lives; 0 for ever."""
    replace_s: float = TIMES["node"]["replace_s"]
    load_s: float = TIMES["node"]["load_s"]
    """Seconds from a node's start until its model is loaded."""
    seed: int = 0


@dataclass
class Result:
    """The outcome of a run."""

    items: int
    seconds: float = 0.0
    commits: list[tuple[float, int]] = field(default_factory=list)
    """Time of each commit, and its items."""
    finished: list[tuple[float, int]] = field(default_factory=list)
    """Time at which a piece's objects were written, and its items."""
    resegmented: int = 0
    """Items that went through the model again, counted every time."""
    reread: int = 0
    """Items that were read and decoded again; a lost piece's complete block is."""
    losses: int = 0
    """Nodes lost."""
    parts: int = 0
    tasks: int = 0
    pieces: int = 0
    in_flight: int = 0
    """Items decoded and not committed at half-time: the work that a stop of the run loses."""
    busy: dict[str, float] = field(default_factory=dict)
    """Share of the time in which each kind of resource was busy."""

    @property
    def mean_items_per_s(self) -> float:
        """Speed from start to end."""
        return self.items / self.seconds

    @property
    def items_per_s(self) -> float:
        """Speed without the run's start and end."""
        return rate(self.commits)


def rate(finished: list[tuple[float, int]]) -> float:
    """Return items per second between the first and the last ``EDGE`` of them, from the end of one batch to that of another."""
    total, done = sum(count for _, count in finished), 0
    inside: list[tuple[float, int]] = []
    for when, count in sorted(finished):
        done += count
        if EDGE * total <= done <= (1 - EDGE) * total:
            inside.append((when, done))
    (start, before), (end, after) = inside[0], inside[-1]
    return (after - before) / (end - start)


def max_slots(cpus: int) -> int:
    """Return the slots of a cluster that decoding, or finishing, can have at once: Ray Data reserves some for other stages.

    Half of all slots is divided equally over the five stages (cutting into blocks, decoding, the model, finishing,
    committing), with at least one slot for a stage of whole ones. The model's share is free, as it needs a GPU. Of the shared
    slots, a stage gets another one as long as one and a third are left.
    """
    each = RESERVED * cpus / STAGES
    shared = cpus - 3 * max(1.0, each) - max(COMMIT_CPUS, each)
    return max(1, int(max(1.0, each) + max(0.0, shared - 1 / 3)))


class Simulation:
    """One run; call ``run`` once.

    A node's *life* counts how often it has been replaced. An event or a free slot of an earlier life is void.
    """

    def __init__(self, work: Work, setup: Setup, times: Times | None = None) -> None:
        self.work, self.setup, self.times = work, setup, times or Times()
        self.events, self.driver = Events(), Driver()
        self.puts = Store(PUTS_S, setup.prefixes, setup.partitions, setup.split_after_s, setup.seed)
        self.gets = Store(GETS_S, setup.prefixes, setup.partitions, setup.split_after_s, setup.seed)
        pieces, blocks = len(work.rows), len(work.first) - 1
        self.stage, self.node_of = bytearray(pieces), [-1] * pieces
        self.block_of = [block for block in range(blocks) for _ in range(work.first[block + 1] - work.first[block])]
        self.blocks: deque[int] = deque(range(blocks))
        self.to_model: deque[int] = deque()
        self.to_finish: deque[int] = deque()
        self.to_commit: list[int] = []
        self.rows_to_commit, self.rows_done = 0, 0
        self.decode_tasks, self.finish_tasks = 0, 0
        self.max_slots = max_slots(setup.gpus * setup.cpus)
        self.coming, self.coming_from = 0, [0] * setup.gpus
        self.ahead = setup.gpus * max(AHEAD, 2 * -(-pieces // max(1, blocks)))
        self.life = [0] * setup.gpus
        self.free_slots: deque[tuple[int, int]] = deque()
        self.free_calls: deque[tuple[int, int]] = deque()
        self.gpu_free_at = [0.0] * setup.gpus
        self.decoding: list[set[int]] = [set() for _ in range(setup.gpus)]
        self.segmenting: list[set[int]] = [set() for _ in range(setup.gpus)]
        self.finishing: list[set[int]] = [set() for _ in range(setup.gpus)]
        self.read, self.segmented = bytearray(blocks), bytearray(pieces)
        self.random = random.Random(setup.seed)
        self.gpu_s, self.cpu_s = 0.0, 0.0
        self.result = Result(work.items, pieces=pieces)

    def run(self) -> Result:
        for node in range(self.setup.gpus):
            self._start_node(0.0, node)
        handlers = {
            Event.DECODED: self._decoded,
            Event.SEGMENTED: self._segmented,
            Event.FINISHED: self._finished,
            Event.NODE_LOST: self._lose_node,
            Event.NODE_STARTED: self._start_node,
            Event.MODEL_LOADED: self._model_loaded,
        }
        result, now = self.result, 0.0
        self._dispatch(now)
        while self.rows_done < result.items:
            now, kind, facts = self.events.pop()
            handlers[Event(kind)](now, *facts)
            self._dispatch(now)
        result.seconds = seconds = result.commits[-1][0]
        result.busy = {
            "GPUs": self.gpu_s / (seconds * self.setup.gpus),
            "CPUs": self.cpu_s / (seconds * self.setup.gpus * self.setup.cpus),
            "PUTs": self.puts.requests / (seconds * PUTS_S * len(self.puts.partitions)),
            "driver": self.driver.busy_s / seconds,
        }
        return result

    def _submit(self, now: float, tasks: int = 1) -> float:
        """Return the time at which the driver has submitted these tasks."""
        self.result.tasks += tasks
        return self.driver.handle(now, tasks * self.times.driver_s)

    def _dispatch(self, now: float) -> None:
        """Start later stages first. Decoding stays only a limited number of pieces ahead of the model."""
        while self.to_model and (call := self._pop(self.free_calls)) is not None:
            self._segment(now, self.to_model.popleft(), *call)
        while self.to_finish and self.finish_tasks < self.max_slots and (slot := self._pop(self.free_slots)) is not None:
            self._finish(now, self.to_finish.popleft(), *slot)
        while self.blocks and self.decode_tasks < self.max_slots and len(self.to_model) + self.coming < self.ahead:
            if (slot := self._pop(self.free_slots)) is None:
                return
            self._decode(now, self.blocks.popleft(), *slot)

    def _pop(self, free: deque[tuple[int, int]]) -> tuple[int, int] | None:
        """Return a free slot or call of a node that still exists."""
        while free:
            node, life = free.popleft()
            if self.life[node] == life:
                return node, life
        return None

    def _decode(self, now: float, block: int, node: int, life: int) -> None:
        """Decode a complete block, even if only some of its pieces were lost."""
        first, last = self.work.first[block], self.work.first[block + 1]
        seconds = self.work.decode_s[first:last]
        start, total = self._submit(now, TASKS_PER_BLOCK), sum(seconds)
        rows = sum(self.work.rows[first:last])
        end = max(start + total, self.gets.take(start, rows))
        self.result.reread += rows if self.read[block] else 0
        self.read[block] = 1
        stretch = (end - start) / total if total else 1.0
        self.decoding[node].add(block)
        self.decode_tasks += 1
        self.coming += last - first
        self.coming_from[node] += last - first
        self.cpu_s += total
        when = start
        for piece, piece_s in zip(range(first, last), seconds, strict=True):
            when += piece_s * stretch
            self.events.add(when, Event.DECODED, piece, node, life)

    def _decoded(self, now: float, piece: int, node: int, life: int) -> None:
        if self.life[node] != life:
            return
        self.coming -= 1
        self.coming_from[node] -= 1
        if self.stage[piece] == Stage.NOTHING:
            self.stage[piece], self.node_of[piece] = Stage.PIXELS, node
            self.to_model.append(piece)
        block = self.block_of[piece]
        if piece == self.work.first[block + 1] - 1:
            self.decoding[node].discard(block)
            self.decode_tasks -= 1
            self.free_slots.append((node, life))

    def _segment(self, now: float, piece: int, node: int, life: int) -> None:
        start = max(self._submit(now), self.gpu_free_at[node])
        self.gpu_free_at[node] = start + self.work.model_s[piece]
        self.segmenting[node].add(piece)
        self.events.add(self.gpu_free_at[node], Event.SEGMENTED, piece, node, life)

    def _segmented(self, now: float, piece: int, node: int, life: int) -> None:
        if self.life[node] != life:
            return
        self.gpu_s += self.work.model_s[piece]
        self.segmenting[node].discard(piece)
        self.free_calls.append((node, life))
        if self.segmented[piece]:
            self.result.resegmented += self.work.rows[piece]
        self.segmented[piece] = 1
        self.stage[piece], self.node_of[piece] = Stage.MASKS, node
        self.to_finish.append(piece)

    def _finish(self, now: float, piece: int, node: int, life: int) -> None:
        start = self._submit(now)
        end = max(start + self.work.finish_s[piece], self.puts.take(start, self.setup.puts * self.work.rows[piece]))
        self.cpu_s += self.work.finish_s[piece]
        self.finishing[node].add(piece)
        self.finish_tasks += 1
        self.events.add(end, Event.FINISHED, piece, node, life)

    def _finished(self, now: float, piece: int, node: int, life: int) -> None:
        if self.life[node] != life:
            return
        self.finishing[node].discard(piece)
        self.finish_tasks -= 1
        self.free_slots.append((node, life))
        self.stage[piece], self.node_of[piece] = Stage.ROWS, node
        self.to_commit.append(piece)
        self.rows_to_commit += self.work.rows[piece]
        self.result.finished.append((now, self.work.rows[piece]))
        if self.rows_to_commit >= self.setup.rows_per_part or self.rows_done + self.rows_to_commit == self.result.items:
            self._commit(now)

    def _commit(self, now: float) -> None:
        """Write one index part. Its items are done from now on, whatever is lost later."""
        when = self.puts.take(self._submit(now), 1)
        for piece in self.to_commit:
            assert self.stage[piece] == Stage.ROWS, "an item would be committed twice"
            self.stage[piece] = Stage.COMMITTED
        before, self.rows_done = self.rows_done, self.rows_done + self.rows_to_commit
        if before < self.result.items / 2 <= self.rows_done:
            stages = zip(self.work.rows, self.stage, strict=True)
            self.result.in_flight = sum(rows for rows, stage in stages if 0 < stage < Stage.COMMITTED)
        self.result.commits.append((when, self.rows_to_commit))
        self.result.parts += 1
        self.to_commit, self.rows_to_commit = [], 0

    def _lose_node(self, now: float, node: int) -> None:
        """Lose a node without warning: its pieces are made again from their blocks, and its running work is queued again."""
        self.life[node] += 1
        self.result.losses += 1
        for other in range(self.setup.gpus):
            for piece in self.segmenting[other] | self.finishing[other] if other != node else ():
                if self.node_of[piece] == node:
                    self.node_of[piece] = other  # which has read its input already
        lost_blocks = set(self.decoding[node])
        for piece, where in enumerate(self.node_of):
            if where == node and self.stage[piece] != Stage.COMMITTED:
                self.stage[piece] = Stage.NOTHING
                lost_blocks.add(self.block_of[piece])
        # Sorted, so that the run does not depend on the order of sets.
        self.to_model = deque(piece for piece in self.to_model if self.stage[piece] == Stage.PIXELS)
        self.to_model.extendleft(piece for piece in sorted(self.segmenting[node]) if self.stage[piece] == Stage.PIXELS)
        self.to_finish = deque(piece for piece in self.to_finish if self.stage[piece] == Stage.MASKS)
        self.to_finish.extendleft(piece for piece in sorted(self.finishing[node]) if self.stage[piece] == Stage.MASKS)
        self.to_commit = [piece for piece in self.to_commit if self.stage[piece] == Stage.ROWS]
        self.rows_to_commit = sum(self.work.rows[piece] for piece in self.to_commit)
        self.blocks.extendleft(sorted(lost_blocks - set(self.blocks)))
        self.decode_tasks -= len(self.decoding[node])
        self.finish_tasks -= len(self.finishing[node])
        self.coming -= self.coming_from[node]
        self.coming_from[node] = 0
        for running in (self.decoding[node], self.segmenting[node], self.finishing[node]):
            running.clear()
        self.events.add(now + self.setup.replace_s, Event.NODE_STARTED, node)

    def _start_node(self, now: float, node: int) -> None:
        """Add a node: its slots are free at once, its model when it is loaded."""
        life = self.life[node]
        self.free_slots.extend((node, life) for _ in range(self.setup.cpus))
        self.events.add(now + self.setup.load_s, Event.MODEL_LOADED, node, life)
        if self.setup.life_s:
            self.events.add(now + self.random.expovariate(1 / self.setup.life_s), Event.NODE_LOST, node)

    def _model_loaded(self, now: float, node: int, life: int) -> None:
        if self.life[node] == life:
            self.gpu_free_at[node] = now
            self.free_calls.extend((node, life) for _ in range(CALLS_PER_ACTOR))
