"""Verdicts: checked, kept once, the latest counts; the sample they judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from jobs.main import app
from pipeline.compare import compare, dice, kolmogorov_smirnov, stability_index
from pipeline.errors import ConfigError
from pipeline.gallery import entries, listing
from pipeline.imaging.encode import encode_cutout, encode_mask
from pipeline.imaging.views import contour, least_certain
from pipeline.schema import INDEX
from pipeline.storage.files import Files
from pipeline.storage.index import write_part
from pipeline.storage.layout import Layout
from pipeline.storage.roots import Roots
from pipeline.verdicts import draw_sample, import_verdicts, judge_sample, read_verdicts

HEAD = "item_id,verdict,note,recipe,time\n"


def make(layout: Layout, count: int = 60, *, grow: int = 0, photos: Path | None = None) -> None:
    """An index of ``count`` items and a failed one; ``grow`` widens the mask of the first."""
    rows = []
    for number in range(count):
        mask = np.zeros((30, 40), np.uint8)
        mask[5:25, 5 : 25 + (grow if number == 0 else 0)] = 255
        uris = {output: layout.output(output, f"i{number}", "0" * 12) for output in ("mask", "cutout")}
        if number < 3:
            Files().write(uris["mask"], encode_mask(mask))
            Files().write(uris["cutout"], encode_cutout(np.full((30, 40, 3), 90, np.uint8), mask))
        photo = f"{photos}/{number}.png" if photos else None
        hashed = f"{grow if number == 0 else 0}-{number}"
        row = {"item_id": f"i{number}", "status": "ok", "quality": number / count, "mask_uri": uris["mask"], "image_uri": photo}
        rows.append(row | {"cutout_uri": uris["cutout"], "mask_sha256": hashed, "reasons": [], "finished_at": 1})
    rows.append({"item_id": "bad", "status": "failed", "error_code": "fetch", "error_detail": "<b>gone</b>", "finished_at": 1})
    write_part(layout, pa.Table.from_pylist(rows, INDEX), Files())


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(str(tmp_path / "out"), "fake-0")
    make(layout)
    return layout


def test_the_latest_verdict_counts_and_a_file_is_kept_once(layout: Layout) -> None:
    first = HEAD + 'i1,accept,,fake-0,2026-01-01T00:00:00Z\ni2,reject,"a, ""b""",fake-0,2026-01-01T00:00:01.5Z\n'
    assert import_verdicts(first, layout, Files()) == import_verdicts(first, layout, Files())
    import_verdicts(HEAD + "i1,reject,,,2026-01-02T00:00:00Z\n", layout, Files())
    assert len(list(Path(layout.verdicts).iterdir())) == 2
    found = read_verdicts(layout, Files())
    assert {item_id: (row["verdict"], row["note"]) for item_id, row in found.items()} == {
        "i1": ("reject", None),
        "i2": ("reject", 'a, "b"'),
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (HEAD, "no verdicts"),
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
        import_verdicts(text, layout, Files())
    assert not Path(layout.verdicts).exists()


def test_a_sample_is_judged(layout: Layout) -> None:
    assert judge_sample(layout, Files()) is None
    ids = draw_sample(layout, Files(), {"at_most": 0.1, "confidence": 0.9, "allowed": 0}, seed=1)
    assert "bad" not in ids
    judged = judge_sample(layout, Files())
    assert judged is not None and not judged.accepted and "open" in judged.sentence
    import_verdicts(HEAD + "".join(f"{item_id},accept,,,\n" for item_id in ids), layout, Files())
    judged = judge_sample(layout, Files())
    assert judged is not None and judged.accepted and judged.upper_bound == pytest.approx(1 - 0.1 ** (1 / len(ids)))
    import_verdicts(HEAD + f"{ids[0]},reject,,,2026-01-01\n", layout, Files())
    judged = judge_sample(layout, Files())
    assert judged is not None and not judged.accepted and ": not accepted;" in judged.sentence


def test_a_gallery_shows_what_it_may_and_names_the_rest(tmp_path: Path) -> None:
    layout, photos = Layout(str(tmp_path / "out"), "fake-0"), tmp_path / "photos"
    make(layout, photos=photos)
    photos.mkdir()
    Image.new("RGB", (40, 30), "red").save(photos / "0.png")
    rows, total = listing(layout, Files())
    assert total == 61 and [row["item_id"] for row in rows[:3]] == ["bad", "i0", "i1"]
    shown = entries(layout, Files(), Roots((str(photos),)), ["i0", "i1", "i5"])
    assert shown[0].notes == [] and shown[0].views is not None and shown[0].views.photo is not None
    assert "photo not shown" in shown[1].notes[0] and shown[1].views is not None and shown[1].views.photo is None
    assert len(shown[2].notes) == 3 and shown[2].views is None
    (outside,) = entries(layout, Files(), Roots((str(tmp_path / "elsewhere"),)), ["i0"])
    assert "outside the allowed roots" in outside.notes[0]


def test_views_find_the_contour_and_the_least_certain_place() -> None:
    mask = np.zeros((400, 600), np.uint8)
    mask[100:200, 100:300] = 255
    mask[300:340, 500:540] = 128
    top, left = least_certain(mask)
    assert top <= 300 and top + 128 >= 340 and left <= 500 and left + 128 >= 540
    assert contour(mask[:250]) == "M100 100L100 199L299 199L299 100Z"
    assert least_certain(mask[:5, :7]) == (0, 0)


def test_two_outputs_are_compared(tmp_path: Path) -> None:
    one, other = Layout(str(tmp_path / "one"), "fake-0"), Layout(str(tmp_path / "two"), "fake-1")
    make(one)
    make(other, 50, grow=10)
    found = compare(one, other, Files())
    assert (found.before, found.after, found.same, found.changed, found.vanished) == (61, 51, 49, 1, 10)
    assert [(change.item_id, change.dice) for change in found.worst] == [("i0", pytest.approx(800 / 1000))]
    assert found.ks is not None and 0 <= found.ks < 0.1
    assert dice(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8)) == 1


def test_drift_is_scipys_and_nothing_where_nothing_moved() -> None:
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(0)
    one, other = rng.random(500).round(2), rng.random(300).round(2) ** 2
    assert kolmogorov_smirnov(one, other) == pytest.approx(ks_2samp(one, other).statistic)
    assert kolmogorov_smirnov(one, one) == stability_index(one, one) == 0
    assert stability_index(one, other) > 0.25


def test_the_commands(layout: Layout, tmp_path: Path) -> None:
    def matteline(*words: str) -> str:
        done = CliRunner().invoke(app, [*words])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    output = str(tmp_path / "out")
    matteline("report", output)
    page = Path(layout.folder, "report.html").read_text()
    assert "gone" in page and "<b>gone" not in page
    assert "drawn with seed 3" in matteline("report", output, "--sample", "--seed", "3", "--at-most", "0.1")
    verdicts = tmp_path / "verdicts.csv"
    verdicts.write_text(HEAD + "i1,accept,,,\n")
    assert "1 verdicts" in matteline("review", "import", str(verdicts), output)
    assert '"same": 60' in matteline("compare", output, output, "--json")
    matteline("compare", output, output, "--html", str(tmp_path / "compare.html"))
