"""A JSON file as an output replaces nothing but such a file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mlclf.errors import ConfigError
from mlclf.files import write_bytes
from mlclf.outputs.documents import check_document, write_document
from mlclf.outputs.output import claimed


@pytest.mark.parametrize("text", ["", '{"format_version": 1, "value": 2}'])
def test_a_document_replaces_one_or_an_empty_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text)
    for value in (1, 2):
        write_document(path, {"format_version": 1, "value": value}, "value")
        assert json.loads(path.read_text())["value"] == value
    write_document(tmp_path / "a" / "new.json", {"format_version": 1}, "value")
    assert (tmp_path / "a" / "new.json").exists()
    check_document(None, "value")


@pytest.mark.parametrize(
    "value", [b"PAR1", b"{}", b"[1]", b'{"format_version": "1"}', b'{"format_version": 1}', b"[" * 100_000]
)
def test_nothing_else_is_replaced(tmp_path: Path, value: bytes) -> None:
    path = tmp_path / "data.parquet"
    path.write_bytes(value)
    message = (
        f"{path}: --out replaces only JSON that such a command wrote, with 'format_version' and 'value', and this "
        "file is none; name another file"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        check_document(path, "value")
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        write_document(path, {"format_version": 1, "value": 1}, "value")
    assert path.read_bytes() == value
    with pytest.raises(ConfigError, match="must be a regular file, found a folder; name a file to write to"):
        check_document(tmp_path, "value")


def test_a_listed_file_stays_ours(tmp_path: Path) -> None:
    document = {"format_version": 1, "value": 1}
    with claimed(tmp_path / "out", "job") as output, output.opened() as folder:
        write_bytes(folder / "thresholds.json", json.dumps(document).encode())
    write_document(tmp_path / "out" / "thresholds.json", document | {"value": 2}, "value")
    with claimed(tmp_path / "out", "job", overwrite=True) as output, output.opened() as folder:
        write_bytes(folder / "b", b"b")
    assert not (tmp_path / "out" / "thresholds.json").exists()
