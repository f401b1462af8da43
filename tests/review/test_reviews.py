"""Verdicts: checked, kept once, the latest counts; the sample they judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.output.layout import Layout
from pipeline.review.reviews import draw_sample, import_reviews, judge_sample, read_reviews
from pipeline.storage.files import Files

MakeOutput = Callable[..., None]
HEAD = "item_id,verdict,note,recipe,time\n"


@pytest.fixture
def layout(tmp_path: Path, make_output: MakeOutput) -> Layout:
    layout = Layout(str(tmp_path / "out"), "fake-0")
    make_output(layout)
    return layout


def test_the_latest_verdict_counts_and_a_file_is_kept_once(layout: Layout) -> None:
    first = HEAD + 'i1,accept,,fake-0,2026-01-01T00:00:00Z\ni2,reject,"a, ""b""",fake-0,2026-01-01T00:00:01.5Z\n'
    assert import_reviews(first, layout, Files()) == import_reviews(first, layout, Files())
    import_reviews(HEAD + "i1,reject,,,2026-01-02T00:00:00Z\n", layout, Files())
    assert len(list(Path(layout.reviews).iterdir())) == 2
    found = read_reviews(layout, Files())
    assert {item_id: (row["verdict"], row["note"]) for item_id, row in found.items()} == {
        "i1": ("reject", None),
        "i2": ("reject", 'a, "b"'),
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (HEAD, "no reviews"),
        ("item_id,note\ni1,x\n", "line 1.*lacks the column verdict"),
        (HEAD + "i1,accept,,,\nnobody,accept,,,\n", "line 3: item 'nobody' is not in"),
        (HEAD + "i1,maybe,,,\n", "line 2: item 'i1' has the verdict 'maybe'"),
        (HEAD + "i1,accept,,other-1,\n", "line 2: item 'i1' was judged in 'other-1'"),
        (HEAD + "i1,accept,,,yesterday\n", "line 2: the time 'yesterday'"),
        (HEAD + "i1,accept,,,,,,\n", "line 2: .*too many cells"),
        (HEAD + 'i1,"acc', "line 2: this is no CSV"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_line(layout: Layout, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        import_reviews(text, layout, Files())
    assert not Path(layout.reviews).exists()


def test_a_sample_is_judged(layout: Layout) -> None:
    assert judge_sample(layout, Files()) is None
    ids = draw_sample(layout, Files(), {"at_most": 0.1, "confidence": 0.9, "allowed": 0}, seed=1, lot=60)
    assert "bad" not in ids
    judged = judge_sample(layout, Files())
    assert judged is not None and not judged.accepted and "open" in judged.sentence
    import_reviews(HEAD + "".join(f"{item_id},accept,,,\n" for item_id in ids), layout, Files())
    judged = judge_sample(layout, Files())
    assert judged is not None and judged.accepted and judged.upper_bound == pytest.approx(1 - 0.1 ** (1 / len(ids)))
    import_reviews(HEAD + f"{ids[0]},reject,,,2026-01-01\n", layout, Files())
    judged = judge_sample(layout, Files())
    assert judged is not None and not judged.accepted and ": not accepted;" in judged.sentence
