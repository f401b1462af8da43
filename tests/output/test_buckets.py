"""Sets of keys are compared in bounded memory, in one bucket or in many, with the same result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.output import buckets
from pipeline.output.buckets import Buckets, differences, hash_keys

KEYS = [f"masks/item-{number:05}.png".encode() for number in range(5000)]


def table(keys: list[bytes]) -> pa.Table:
    return pa.table({"path": pa.array(keys, pa.binary())})


@pytest.mark.parametrize("count", [1, 7])
def test_differences_in_both_directions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(buckets, "FLUSH_BYTES", 10_000)
    monkeypatch.setattr(buckets, "BATCH_ROWS", 100)
    monkeypatch.setattr(buckets, "HASHED_ROWS", 300)
    order = np.random.default_rng(0).permutation(len(KEYS))
    known = Buckets(tmp_path / "known", "path", count)
    known_keys = [KEYS[number] for number in order if number % 10 != 3] + [KEYS[0]]  # one of them twice
    for start in range(0, len(known_keys), 700):
        known.add(
            table(known_keys[start : start + 700]).append_column("size", pa.array(range(len(known_keys[start : start + 700]))))
        )
    found = [table(KEYS[start : start + 250]) for start in range(0, 4500, 250)]
    extra, missing = [], []
    for difference in differences(known, found, tmp_path / "found"):
        extra += difference.extra["path"].to_pylist() if difference.extra.num_rows else []
        missing += difference.missing["path"].to_pylist() if difference.missing.num_rows else []
    assert sorted(extra) == [key for number, key in enumerate(KEYS[:4500]) if number % 10 == 3]
    assert sorted(missing) == [key for number, key in enumerate(KEYS) if number % 10 != 3 and number >= 4500]
    assert (tmp_path / "known").exists() == (tmp_path / "found").exists() == (count > 1), "small sets need no disk"


@pytest.mark.parametrize("count", [1, 3])
def test_empty_sets(tmp_path: Path, count: int) -> None:
    known = Buckets(tmp_path / "known", "path", count)
    assert not list(differences(known, [], tmp_path / "none"))
    assert [row for one in differences(known, [table(KEYS[:2])], tmp_path / "found") for row in one.extra["path"].to_pylist()]
    known.add(table(KEYS[:3]))
    assert sum(one.missing.num_rows for one in differences(known, [], tmp_path / "nothing")) == 3


def test_a_bucket_has_equal_keys_and_its_share_of_all(tmp_path: Path) -> None:
    known = Buckets(tmp_path / "known", "path", 10)
    known.add(table(KEYS * 2))
    seen: set[bytes] = set()
    for number in range(10):
        keys = [key for piece in known.read(number) for key in piece["path"].to_pylist()]
        assert 700 < len(keys) < 1300
        assert not seen & set(keys)
        seen |= set(keys)
    assert seen == set(KEYS)


def test_a_hash_depends_on_the_key_and_the_seed_alone() -> None:
    keys = pa.chunked_array([pa.array([b"", b"a", b"aa", b"\x00", b"\x00\x00", "é".encode()]), pa.array(KEYS)])
    hashes = hash_keys(keys)
    assert len(set(hashes.tolist())) == len(keys)
    assert (hash_keys(keys.slice(4, 30)) == hashes[4:34]).all()
    assert (hash_keys(keys.cast(pa.string())) == hashes).all()
    assert (hash_keys(keys, 1) != hashes).all()
    assert len(hash_keys(pa.chunked_array([], pa.string()))) == 0
    shares = hash_keys(keys) / 2.0**64
    assert 0.45 < float(np.mean(shares < 0.5)) < 0.55
