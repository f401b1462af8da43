"""Graphs are made once, read only if they are intact, and the cache of them stays small."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from pipeline.models.engines.graph_cache import cached, mark_used, read_cached, trim

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


def write(folder: Path) -> None:
    (folder / "graph.bin").write_bytes(b"graph")


def never(folder: Path) -> None:
    raise AssertionError(f"{folder} was made again")


def test_a_graph_is_made_once(tmp_path: Path) -> None:
    cache = tmp_path / "graphs"
    folder = cached(cache, "name", write)
    assert folder is not None and (folder / "graph.bin").read_bytes() == b"graph"
    assert cached(cache, "name", never) == folder
    assert sorted(path.name for path in cache.iterdir()) == ["name", "name.lock"]


@pytest.mark.parametrize("damage", ["cut", "another", "missing", "more"])
def test_a_damaged_graph_is_made_again(damage: str, tmp_path: Path) -> None:
    folder = cached(tmp_path, "name", write)
    assert folder is not None
    match damage:
        case "cut":
            (folder / "graph.bin").write_bytes(b"gra")
        case "another":
            (folder / "graph.bin").write_bytes(b"grass")
        case "missing":
            (folder / "graph.bin").unlink()
        case "more":
            (folder / "more.bin").touch()
    assert cached(tmp_path, "name", write) == folder
    assert cached(tmp_path, "name", never) == folder
    assert (folder / "graph.bin").read_bytes() == b"graph"


def test_a_graph_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        cached(tmp_path, "name", never)
    assert [path.name for path in tmp_path.iterdir()] == ["name.lock"]


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, logged: list[logging.LogRecord]) -> None:
    (tmp_path / "file").touch()
    assert cached(tmp_path / "file" / "graphs", "name", write) is None
    assert "cannot cache graphs" in logged[0].getMessage()


def test_a_read_only_cache_is_read(tmp_path: Path) -> None:
    folder = cached(tmp_path, "name", write)
    tmp_path.chmod(0o500)
    try:
        assert cached(tmp_path, "name", never) == folder
    finally:
        tmp_path.chmod(0o700)


def content(folder: Path) -> bytes:
    return (folder / "graph.bin").read_bytes()


def not_cached() -> bytes:
    return b"not cached"


def test_a_graph_that_another_process_deletes_is_made_again(tmp_path: Path) -> None:
    cached(tmp_path, "name", write)
    tries = []

    def read(folder: Path) -> bytes:
        tries.append(folder)
        if len(tries) == 1:
            shutil.rmtree(folder)  # what ``trim`` does in another process
        return content(folder)

    assert read_cached(tmp_path, "name", write, read, not_cached) == b"graph"
    assert cached(tmp_path, "name", never) == tmp_path / "name"


def test_a_graph_that_is_refused_is_replaced(tmp_path: Path) -> None:
    cached(tmp_path, "name", lambda folder: (folder / "graph.bin").write_bytes(b"refused") and None)

    def read(folder: Path) -> bytes:
        if content(folder) == b"refused":
            raise RuntimeError("it was compiled for another CPU")
        return content(folder)

    assert read_cached(tmp_path, "name", write, read, not_cached) == b"graph"
    assert read_cached(tmp_path, "name", never, read, not_cached) == b"graph", "the next process need not make it"


def test_a_graph_that_was_replaced_meanwhile_is_kept(tmp_path: Path) -> None:
    cached(tmp_path, "name", lambda folder: (folder / "graph.bin").write_bytes(b"refused") and None)

    def read(folder: Path) -> bytes:
        if content(folder) == b"refused":
            folder.rename(tmp_path / "old")
            cached(tmp_path, "name", write)  # by another process, which had the same trouble
            raise RuntimeError("it was compiled for another CPU")
        return content(folder)

    assert read_cached(tmp_path, "name", never, read, not_cached) == b"graph"


def test_a_graph_that_no_attempt_can_read_is_made_without_the_cache(tmp_path: Path) -> None:
    def read(folder: Path) -> bytes:
        raise RuntimeError("this library reads no graphs")

    assert read_cached(tmp_path, "name", write, read, not_cached) == b"not cached"
