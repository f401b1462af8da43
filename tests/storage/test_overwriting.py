"""Files of others are not overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.storage.files import Files
from pipeline.storage.overwriting import json_with, refuse_foreign


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b'{"terms": 1}', b"\xff", b"null"])
def test_a_file_that_is_not_the_commands_own_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"--to .*x\.json exists, and this command did not write it"):
        refuse_foreign("--to", str(path), Files(), (".json",), json_with("terms", "bias"))


def test_new_files_and_the_commands_own_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    refuse_foreign("--to", str(path), Files(), (".json",), json_with("terms", "bias"))
    path.write_text('{"terms": {}, "bias": 0, "more": 1}')
    refuse_foreign("--to", str(path), Files(), (".json",), json_with("terms", "bias"))
    with pytest.raises(ConfigError, match=r"must end in \.json"):
        refuse_foreign("--to", str(tmp_path / "x.txt"), Files(), (".json",), json_with("terms"))
