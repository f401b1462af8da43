"""How good the score is, by tag."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.evaluate.by_tag import ALL, TagScore, score_by_tag
from pipeline.evaluate.tables import score_table


def test_every_tag_is_evaluated_on_its_own_items() -> None:
    quality = np.array([0.9, 0.2, 0.8, 0.1, 0.9])
    dice = np.array([0.99, 0.5, 0.97, 0.3, 0.5])
    tags = [{"tight"}, {"tight"}, {"loose"}, {"loose"}, {"loose", "hand"}]
    scores = score_by_tag(quality, dice, quality >= 0.7, tags)
    assert list(scores) == ["hand", "loose", "tight", ALL]
    assert scores["tight"][:3] == (2, 1, 1.0) and scores["tight"].calibration_error == pytest.approx(0.15)
    assert scores["loose"][:3] == (3, 2, 0.5)
    assert scores["loose"][4:] == (2, 1)
    assert scores["hand"].ok_failures == 1 and math.isnan(scores["hand"].auroc)
    assert scores[ALL].items == 5 and scores[ALL].ok == 3


def test_the_table_leaves_out_what_says_nothing() -> None:
    scores = {"every": TagScore(4, 1, 1.0, 0.1, 2, 0), "few": TagScore(2, 0, math.nan, 0.05, 0, 0)}
    title, header, rows = score_table("t", scores | {ALL: TagScore(4, 1, 1.0, 0.1, 2, 1)})
    assert title == "t" and len(header) == 7
    assert rows == [["few", "2", "0", "–", "0.050", "0", "–"], ["all", "4", "1", "1.000", "0.100", "2", "1 (50.0 %)"]]
