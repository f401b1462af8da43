"""The cache of converted graphs stays small."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from pipeline.models.engines.graph_cache import mark_used, trim

Graph = Callable[[str, int], Path]


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    """``graph(name, age_s)``: a graph of 100 bytes that was last used so many seconds ago."""

    def make(name: str, age_s: int) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "graph.bin").write_bytes(bytes(100))
        os.utime(folder, (1e9 - age_s, 1e9 - age_s))
        return folder

    return make


def test_those_not_used_for_longest_are_deleted(graph: Graph, tmp_path: Path) -> None:
    oldest, old, new = graph("oldest", 30), graph("old", 20), graph("new", 10)
    trim(tmp_path, new, 300)
    assert oldest.exists() and old.exists()
    trim(tmp_path, new, 299)
    assert not oldest.exists() and old.exists()
    mark_used(old)
    trim(tmp_path, new, 0)
    assert not old.exists() and new.exists(), "the graph in use is kept, whatever the limit"


def test_a_graph_that_another_process_makes_is_kept(graph: Graph, tmp_path: Path) -> None:
    made, other = graph("made", 30), graph("other", 20)
    with FileLock(f"{made}.lock"):
        trim(tmp_path, other, 0)
    assert made.exists() and other.exists()
