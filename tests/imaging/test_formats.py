"""Each row of the table of formats holds, and the README shows these rows."""

from __future__ import annotations

import numpy as np
import pytest
from formats import README, ROWS, Row, page

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.decode import decode


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.form}, {row.kind}")
def test_row(row: Row) -> None:
    if row.form == "HEIC":
        pytest.importorskip("pillow_heif")
    if row.expected is None:
        with pytest.raises(DecodeError) as raised:
            decode(row.make(), Limits())
        assert str(raised.value) == row.read
        return
    pixels = decode(row.make(), Limits())
    expected = row.expected if row.expected.ndim == 3 else np.stack([row.expected] * 3, axis=-1)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected.astype(float)).mean() <= row.mean_error


def test_the_readme_shows_these_rows() -> None:
    assert README.read_text(encoding="utf-8") == page(), "run python tests/imaging/formats.py --write"
