from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlclf.errors import ConfigError, FullDiskError, RunError
from mlclf.files import (
    append_line,
    committed,
    is_temporary,
    read_json,
    safe_relative,
    sha256_of,
    write_bytes,
    write_json,
    write_text,
)


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fail(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_committed_writes_beside_and_renames(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "model.bin"
    with committed(path) as temporary:
        assert temporary.parent == path.parent
        assert re.fullmatch(rf"\.model\.bin\.tmp-{os.getpid()}-[0-9a-f]{{8}}", temporary.name)
        assert is_temporary(temporary)
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert contents(tmp_path) == {"a/b/model.bin": b"new"}


def write_half(path: Path, error: type[BaseException]) -> None:
    with committed(path) as temporary:
        temporary.write_bytes(b"half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")
    with pytest.raises(error):
        write_half(path, error)
    assert contents(tmp_path) == {"model.bin": b"old"}


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_failing_system_call_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, call, fail)
    message = rf"^{path}: the disk is full: it takes more than 3 bytes, 3 were written, and [\d,]+ are free now$"
    with pytest.raises(FullDiskError, match=message):
        write_bytes(path, b"new")
    assert contents(tmp_path) == {"model.bin": b"old"}


def test_everything_is_on_disk_before_and_after_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(str(Path(f"/proc/self/fd/{fd}").readlink())), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *a: (calls.append("replace"), replace(*a)))
    write_bytes(tmp_path / "a", b"x")
    assert len(calls) == 3
    assert is_temporary(Path(calls[0]))
    assert calls[1:] == ["replace", str(tmp_path)]


def test_a_killed_process_leaves_the_old_file_and_a_temporary(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")
    code = (
        "import os, sys; from pathlib import Path; from mlclf.files import committed\n"
        "with committed(Path(sys.argv[1])) as t:\n    t.write_bytes(b'half'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    (left,) = (entry for entry in tmp_path.iterdir() if entry != path)
    assert is_temporary(left)
    assert path.read_bytes() == b"old"
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_longest_name_can_be_committed(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    write_text(path, "x")
    assert path.read_text() == "x"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "far" / "file")
    write_text(link, "new")
    assert link.is_symlink()
    assert contents(tmp_path / "far") == {"file": b"new"}


def test_only_a_regular_file_is_replaced(tmp_path: Path) -> None:
    message = f"{str(tmp_path)!r} must be a regular file, found a folder; name a file to write to"
    with pytest.raises(ConfigError, match=exactly(message)):
        write_text(tmp_path, "x")
    message = "'/dev/null' must be a regular file, found a device; name a file to write to"
    with pytest.raises(ConfigError, match=exactly(message)):
        write_text(Path("/dev/null"), "x")


def test_text_keeps_its_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "é\r\n\n")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa9\r\n\n"


def test_json_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    value = {"format_version": 1, "é": [0.1, None, True], "x": {}}
    write_json(path, value)
    assert path.read_text(encoding="utf-8") == (
        '{\n "format_version": 1,\n "é": [\n  0.1,\n  null,\n  true\n ],\n "x": {}\n}\n'
    )
    assert read_json(path, 1, "thresholds") == value


def test_nan_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, [1])
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        write_json(path, [float("nan")])
    assert json.loads(path.read_text()) == [1]


@pytest.mark.parametrize("version", [2, 0, "1", True, 1.0, None])
def test_another_format_version_is_refused(tmp_path: Path, version: object) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"format_version": version})
    message = (
        f"{str(path)!r} holds thresholds of format_version {version!r}, this release of mlclf reads 1; "
        "use the release that wrote it or write it again"
    )
    with pytest.raises(RunError, match=exactly(message)):
        read_json(path, 1, "thresholds")


def test_a_missing_format_version_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {})
    with pytest.raises(RunError, match="holds thresholds of format_version None, this release of mlclf reads 1; "):
        read_json(tmp_path / "a.json", 1, "thresholds")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a": 1', "Expecting ',' delimiter: line 1 column 8 (char 7)"),
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b'{"a": NaN}', "NaN, which is not JSON"),
        (b"\xff", "bytes that are not UTF-8"),
        (b"[" * 100_000, "brackets nested too deep"),
    ],
)
def test_malformed_json_is_refused(tmp_path: Path, text: bytes, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text)
    message = f"{str(path)!r} must hold metrics as JSON, found {reason}; restore the file or write it again"
    with pytest.raises(RunError, match=exactly(message)):
        read_json(path, 1, "metrics")


def test_json_that_is_no_object_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, [1])
    message = f"{str(path)!r} must hold metrics as a JSON object, found list; restore the file or write it again"
    with pytest.raises(RunError, match=exactly(message)):
        read_json(path, 1, "metrics")


def test_a_missing_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    message = f"{str(path)!r} must hold metrics, found no such file; check the path or write it again"
    with pytest.raises(RunError, match=exactly(message)):
        read_json(path, 1, "metrics")


def test_sha256(tmp_path: Path) -> None:
    data = os.urandom((1 << 20) + 17)
    (tmp_path / "a").write_bytes(data)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_lines_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = ["one", "zwölf", "x" * 100_000, ""]
    for line in lines:
        append_line(path, line)
    assert path.read_text(encoding="utf-8") == "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize(("torn", "kept"), [(b"one\ntw", b"one\n"), (b"tw", b""), (b"one\n", b"one\n"), (b"", b"")])
def test_a_torn_line_is_dropped(tmp_path: Path, torn: bytes, kept: bytes) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(torn)
    append_line(path, "next")
    assert path.read_bytes() == kept + b"next\n"


@pytest.mark.parametrize("text", ["a\nb", "a\r"])
def test_a_line_has_no_line_break(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=exactly(f"a log line must not hold a line break, got {text!r}")):
        append_line(tmp_path / "log.jsonl", text)
    assert not contents(tmp_path)


@pytest.mark.parametrize("path", ["a", "a/b.parquet", "./a", "inside/x", "..a", "a..b/c"])
def test_a_path_inside_is_joined(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "inside").symlink_to(tmp_path / "folder")
    assert safe_relative(path, tmp_path) == tmp_path / path


@pytest.mark.parametrize(
    "path", ["", ".", "..", "../x", "a/../../x", "a/../b", "/etc/passwd", "out/x", "loop/x", "a\0b"]
)
def test_a_path_never_escapes(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "out").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    message = f"path {path!r} must lie inside {str(folder)!r}; the file that names it is damaged or not to be trusted"
    with pytest.raises(RunError, match=exactly(message)):
        safe_relative(path, folder)


@pytest.mark.parametrize("name", ["model.tmp-12-0123abcd", ".model.tmp-12-xyz", ".model.tmp", ".tmp-12-0123abcd.json"])
def test_a_real_name_is_no_temporary(name: str) -> None:
    assert not is_temporary(Path(name))
