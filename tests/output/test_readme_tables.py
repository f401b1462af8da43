"""The generated parts of ``pipeline/output/README.md`` match ``pipeline/schema.py``.

``python tests/output/test_readme_tables.py`` updates them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from pipeline.output.layout import OUTPUTS
from pipeline.output.run_record import RunRecord
from pipeline.schema import INDEX, MODEL, RENDITION, SECONDS, SIGNALS, VIDEO, VIDEO_FILE

README = Path(__file__).resolve().parents[2] / "pipeline" / "output" / "README.md"


def described(fields: Iterable[pa.Field]) -> list[tuple[str, str, str]]:
    """Return names, type and description. The columns of one file, and those with the same description, share an entry."""

    def key(field: pa.Field) -> str:
        file = field.name.partition("_")[0]
        return file if file in ("image", *OUTPUTS) else field.metadata[b"about"].decode()

    entries = []
    for _, group in groupby(fields, key):
        some = list(group)
        abouts = dict.fromkeys(field.metadata[b"about"].decode().replace("|", "\\|") for field in some)
        types = dict.fromkeys(type_name(field.type) for field in some)
        entries.append((", ".join(f"`{field.name}`" for field in some), ", ".join(types), "; ".join(abouts)))
    return entries


def type_name(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {type_name(kind.value_type)}"
    return "struct" if pa.types.is_struct(kind) else str(kind)


def table(schema: Iterable[pa.Field]) -> str:
    rows = [f"| {names} | {kind} | {about} |" for names, kind, about in described(schema)]
    return "\n".join(["| name | type | description |", "|---|---|---|", *rows])


def sentence(schema: Iterable[pa.Field]) -> str:
    return "; ".join(f"{names}: {about}" for names, _, about in described(schema)) + "."


PARTS = {
    "index columns": f"{table(INDEX)}\n\nIn `renditions`: {sentence(RENDITION)} In `models`: {sentence(MODEL)} "
    f"In `seconds`: {sentence(SECONDS)} In `video_facts`: {sentence(VIDEO)} In its `files`: {sentence(VIDEO_FILE)}",
    "signals": table(SIGNALS),
}


def updated(text: str) -> str:
    for name, part in PARTS.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{part}\n{end}{rest.partition(end)[2]}"
    return text


def test_the_tables_match_the_schema() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == updated(text), "run python tests/output/test_readme_tables.py"


def test_the_run_record_is_described_completely() -> None:
    section = README.read_text(encoding="utf-8").partition("## Run record")[2].partition("\n## ")[0]
    names = {name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert names == {field.name for field in fields(RunRecord)}


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
