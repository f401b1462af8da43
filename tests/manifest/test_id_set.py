from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.manifest.id_set import contains, duplicate_ids, hash_ids, merge_ids


def test_hashes_are_blake2b_in_the_order_of_the_ids() -> None:
    hashes = hash_ids(pa.chunked_array([["a", "ü"], [""]]))
    assert hashes.tobytes() == b"".join(blake2b(text.encode(), digest_size=16).digest() for text in ("a", "ü", ""))


def test_trailing_zeros_are_kept() -> None:
    """NumPy strips them when it returns a value as bytes, but not in comparisons, sorts and copies."""
    values = [b"\1" * 15 + b"\0", b"\1" * 14 + b"\0\0", b"\1" * 15 + b"\1", b"\0" * 16, b"\0" * 15 + b"\1"]
    known = merge_ids([np.frombuffer(b"".join(values[:3]), "S16"), np.frombuffer(values[3], "S16")])
    assert known.tobytes() == b"".join(sorted(values[:4]))
    assert contains(known, np.frombuffer(b"".join(values), "S16")).tolist() == [True, True, True, True, False]
    assert not len(duplicate_ids(known))


@given(st.lists(st.text(max_size=3)), st.lists(st.text(max_size=3)))
def test_id_sets_behave_as_python_sets(known: list[str], asked: list[str]) -> None:
    ids = merge_ids([hash_ids(pa.array([text], pa.string())) for text in known])
    assert contains(ids, hash_ids(pa.array(asked, pa.string()))).tolist() == [text in set(known) for text in asked]
    assert len(duplicate_ids(ids)) == sum(known.count(text) > 1 for text in set(known))


def test_empty_sets() -> None:
    empty = merge_ids([])
    assert contains(empty, hash_ids(pa.array(["a"]))).tolist() == [False]
    assert contains(empty, empty).tolist() == []
