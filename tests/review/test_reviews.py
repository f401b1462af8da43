"""Reviews are checked and stored once, the latest one counts, and they decide about a sample."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError, StorageError
from pipeline.output.index import read_part, write_part
from pipeline.output.output import Output
from pipeline.output.settings import recipe_label
from pipeline.review.entries import find_rows
from pipeline.review.reviews import draw_sample, import_reviews, read_reviews, review_sample
from pipeline.schema import INDEX
from pipeline.storage.files import Files

MakeOutput = Callable[..., None]
HEAD = "item_id,verdict,note,recipe,time\n"


@pytest.fixture
def output(tmp_path: Path, make_output: MakeOutput) -> Output:
    output = Output.at(str(tmp_path / "out"), Files())
    make_output(output)
    return output


def test_the_latest_review_counts_and_a_file_is_stored_once(output: Output) -> None:
    recipe = recipe_label(output)
    first = f'{HEAD}i1,accept,,{recipe},2026-01-01T00:00:00Z\ni2,reject,"a, ""b""",{recipe},2026-01-01T00:00:01.5Z\n'
    assert import_reviews(first, output) == import_reviews(first, output)
    import_reviews(HEAD + "i1,reject,,,2026-01-02T00:00:00Z\n", output)
    assert len(list(Path(output.layout.reviews).iterdir())) == 2
    found = read_reviews(output).latest
    assert {item_id: (row["verdict"], row["note"]) for item_id, row in found.items()} == {
        "i1": ("reject", None),
        "i2": ("reject", 'a, "b"'),
    }


def test_of_reviews_without_a_time_those_of_the_last_import_count(output: Output) -> None:
    """Parts are named by their content, so their names say nothing about their order."""
    version = find_rows(output, ["i1"])[0]["version"]
    texts = [f"item_id,verdict,note\ni1,{verdict},{note}\n" for note in range(4) for verdict in ("accept", "reject")]
    texts += [f"item_id,verdict,note,version\ni1,accept,v,{version}\n", texts[1]]
    for at, text in enumerate(texts):
        path = Path(import_reviews(text, output).uri)
        os.utime(path, (1e9 + at, 1e9 + at))
        (found,) = read_reviews(output).latest.values()
        assert [found["verdict"], found["note"]] == text.split("\n")[1].split(",")[1:3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD, "no reviews"),
        ("item_id,note\ni1,x\n", "line 1.*lacks the column verdict"),
        (HEAD + "i1,accept,,,\nnobody,accept,,,\n", "line 3: item 'nobody' is not in"),
        (HEAD + "i1,maybe,,,\n", "line 2: item 'i1' has the verdict 'maybe'"),
        (HEAD + "i1,accept,,other-1,\n", "line 2: item 'i1' was reviewed in 'other-1'"),
        (HEAD + "i1,accept,,,yesterday\n", "line 2: the time 'yesterday'"),
        (HEAD + "i1,accept,,,0001-01-01T00:00:00+05:00\n", "line 2: the time '0001-"),
        (HEAD + "i1,accept,,,,,,\n", "line 2: .*too many cells"),
        (HEAD + 'i1,"acc', "line 2: invalid CSV"),
    ],
)
def test_invalid_reviews_are_refused_with_their_line(output: Output, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        import_reviews(text, output)
    assert not Path(output.layout.reviews).exists()


def replaced(output: Output, item_id: str, sha256: str) -> None:
    """Give an item a new result, as a run with --replace does."""
    (part,) = output.parts()
    rows = read_part(part, output.files, None).to_pylist()
    rows = [row | ({"cutout_sha256": sha256} if row["item_id"] == item_id else {}) for row in rows]
    write_part(output, pa.Table.from_pylist(rows, INDEX))


def test_reviews_of_earlier_results_are_left_out(output: Output) -> None:
    """Accepting a sample, and then replacing its masks, must not accept what nobody has seen."""
    ids = draw_sample(output, {"at_most": 0.1, "confidence": 0.9, "allowed": 0}, seed=1, lot=60)
    versions = {row["item_id"]: row["version"] for row in find_rows(output, ids)}
    text = HEAD.replace("\n", ",version\n") + "".join(f"{one},accept,,,,{versions[one]}\n" for one in ids)
    imported = import_reviews(text, output)
    assert (imported.stored, imported.outdated) == (16, 0)
    replaced(output, ids[0], "f" * 64)
    result = review_sample(output)
    assert result is not None and not result.accepted and (result.reviewed, result.outdated) == (15, 1)
    assert result.message.endswith("; 1 review is of earlier results and left out")
    assert read_reviews(output).outdated == {ids[0]}
    imported = import_reviews(text + "gone,reject,,,,abc\n", output)
    assert (imported.stored, imported.outdated) == (15, 2), "the others of the file count"
    with pytest.raises(ConfigError, match="none of the 1 reviews is of a present result"):
        import_reviews(f"{HEAD.strip()},version\n{ids[0]},accept,,,,{versions[ids[0]]}\n", output)
    new = find_rows(output, ids[:1])[0]["version"]
    import_reviews(f"{HEAD.strip()},version\n{ids[0]},reject,,,1999-01-01,{new}\n", output)
    found = read_reviews(output)
    assert found.latest[ids[0]]["verdict"] == "reject" and not found.outdated, "whatever the time of the others is"


def test_reviews_without_a_version_count_for_any_result(output: Output) -> None:
    import_reviews(HEAD + "i1,accept,,,\n", output)
    (path,) = Path(output.layout.reviews).glob("*.parquet")
    pq.write_table(pq.read_table(path).drop_columns("version"), path)  # as Matteline wrote it before
    replaced(output, "i1", "f" * 64)
    assert read_reviews(output).latest["i1"]["verdict"] == "accept"


def test_a_sample_of_an_index_with_repeated_rows_is_refused(output: Output) -> None:
    (part,) = output.parts()
    output.files.write(f"{output.layout.index}/part-again.parquet", output.files.read(part.uri))
    with pytest.raises(ConfigError, match="some items of .* have several rows"):
        draw_sample(output, {"at_most": 0.001, "confidence": 0.9, "allowed": 0}, seed=1, lot=120)


def test_reviews_decide_about_a_sample(output: Output) -> None:
    assert review_sample(output) is None
    ids = draw_sample(output, {"at_most": 0.1, "confidence": 0.9, "allowed": 0}, seed=1, lot=60)
    assert "bad" not in ids
    result = review_sample(output)
    assert result is not None and not result.accepted
    assert result.message.startswith("open: checks 16 of 60 items, drawn at random; if none of them is bad, at most 10 %")
    import_reviews(f"{HEAD}{ids[0]},accept,,,\n", output)
    result = review_sample(output)
    assert result is not None and result.message.startswith("open: 1 of 16 checked, 0 bad, 15 still to check; checks 16")
    import_reviews(HEAD + "".join(f"{item_id},accept,,,\n" for item_id in ids), output)
    result = review_sample(output)
    assert result is not None and result.message == (
        "passed: 16 of 16 checked, 0 bad; at most 10 % of all 60 items are bad (90 % certain)"
    )
    assert result.accepted and result.upper_bound == pytest.approx(1 - 0.1 ** (1 / len(ids)))
    import_reviews(HEAD + f"{ids[0]},reject,,,2026-01-01\n", output)
    result = review_sample(output)
    assert (
        result is not None
        and not result.accepted
        and result.message.startswith("not passed: ")
        and "improve the output" in result.message
    )


@pytest.mark.parametrize("item_id", ['=HYPERLINK("http://x")', "-1", "+1", "@a", "'=1", "''=1", "'quoted"])
def test_a_formula_that_the_page_has_quoted_is_the_item_again(output: Output, item_id: str) -> None:
    """The page puts an apostrophe before what a spreadsheet would run; see reviews.js."""
    written = f"'{item_id}" if re.match(r"'*[=+\-@]", item_id) else item_id
    cell = '"' + written.replace('"', '""') + '"'
    write_part(output, pa.Table.from_pylist([{"item_id": item_id, "output_name": "x", "status": "ok"}], INDEX))
    import_reviews(HEAD + f"{cell},reject,{cell},,2026-01-02T00:00:00Z\n", output)
    (review,) = read_reviews(output).latest.values()
    assert (review["item_id"], review["note"]) == (item_id, item_id)


def test_damaged_reviews_are_refused(output: Output) -> None:
    import_reviews(HEAD + "i0,accept,,,2026-01-01\ni1,reject,,,2026-01-01\n", output)
    (path,) = Path(output.layout.reviews).glob("*.parquet")
    whole, table = path.read_bytes(), pq.read_table(path)
    for damage in (b"", whole[:-9], whole[: len(whole) // 2], b"PAR1" + bytes(90) + b"PAR1"):
        path.write_bytes(damage)
        with pytest.raises(StorageError, match="are damaged; delete them and import them again"):
            read_reviews(output)
    verdicts = table.schema.get_field_index("verdict")
    for column in (pa.nulls(2, pa.string()), pa.array(["accept", "maybe"])):
        pq.write_table(table.set_column(verdicts, "verdict", column), path)
        with pytest.raises(StorageError, match="are damaged"):
            read_reviews(output)


@pytest.mark.parametrize("change", [{"ids": [[]]}, {"ids": ["i0"]}, {"confidence": 10**400}, {"draw": "x"}, {"allowed": None}])
def test_a_damaged_sample_is_refused(output: Output, change: dict[str, Any]) -> None:
    draw_sample(output, {"at_most": 0.1, "confidence": 0.9, "allowed": 0}, seed=1, lot=60)
    path = Path(output.layout.reviews) / "sample.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StorageError, match="cannot be read .*; draw it again"):
        review_sample(output)
