from __future__ import annotations

import os
import re
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.data.sources import find_sources
from mlclf.errors import DataError


def write(path: Path, rows: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"x": list(range(rows))}), path)
    return path


def relatives(*arguments: str | Path) -> list[str]:
    return [source.relative for source in find_sources([str(argument) for argument in arguments])[0]]


def test_a_folder_is_searched_in_the_order_of_path_bytes(tmp_path: Path) -> None:
    for name in ("b.parquet", "a/z.pq", "Z.parq", "é.parquet", "a.parquet"):
        write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no")
    assert relatives(tmp_path) == ["Z.parq", "a.parquet", "a/z.pq", "b.parquet", "é.parquet"]


def test_hidden_names_are_passed_over(tmp_path: Path) -> None:
    for name in ("_tmp/x.parquet", ".x.parquet", "_x.parquet", "a/.b/x.parquet", "_day=1/x.parquet", "y.parquet"):
        write(tmp_path / name)
    (tmp_path / "_SUCCESS").touch()
    assert relatives(tmp_path) == ["_day=1/x.parquet", "y.parquet"]
    assert relatives(tmp_path / "*") == ["_day=1/x.parquet", "y.parquet"]
    assert relatives(tmp_path / "_x*") == ["_x.parquet"]


def test_globs_give_paths_below_their_last_plain_folder(tmp_path: Path) -> None:
    for name in ("p/a/x.parquet", "p/b/x.parquet", "p/b/deep/y.parquet"):
        write(tmp_path / name)
    assert relatives(tmp_path / "p/*/x.parquet") == ["a/x.parquet", "b/x.parquet"]
    assert relatives(tmp_path / "p/*") == ["a/x.parquet", "b/deep/y.parquet", "b/x.parquet"]
    assert relatives(tmp_path / "p/**/*.parquet") == ["a/x.parquet", "b/deep/y.parquet", "b/x.parquet"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    write(tmp_path / "a[1].parquet")
    assert relatives(tmp_path / "a[1].parquet") == ["a[1].parquet"]


def test_relative_paths_are_never_shared(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a/part.parquet"), write(tmp_path / "b/part.parquet")
    assert relatives(one, two) == ["part.parquet", "part-2.parquet"]


def test_a_file_given_twice_is_read_once_with_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    (tmp_path / "link.parquet").symlink_to(path)
    sources, warnings = find_sources([str(path), str(tmp_path), f"file://{path}"])
    assert [source.name for source in sources] == [str(path)]
    again = [path, tmp_path / "link.parquet", path]
    assert warnings == [f"{name} was given more than once; it is read once" for name in again]


def test_file_uris_may_hold_escapes(tmp_path: Path) -> None:
    path = write(tmp_path / "a b.parquet")
    assert relatives(f"file://{str(path).replace(' ', '%20')}") == ["a b.parquet"]


def test_the_version_changes_when_a_file_is_written_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    versions = set()
    for written in (1_000_000_001, 1_000_000_002):
        os.utime(path, ns=(written, written))
        versions |= {source.version for argument in (path, tmp_path) for source in find_sources([str(argument)])[0]}
    assert versions == {"1000000001", "1000000002"}


def test_what_is_local_and_what_is_remote(tmp_path: Path) -> None:
    with fsspec.filesystem("memory").open("/mlclf-remote-or-not/a.parquet", "wb") as file:
        pq.write_table(pa.table({"x": [1, 2]}), file)
    found, _ = find_sources([str(write(tmp_path / "a.parquet")), "memory://mlclf-remote-or-not"])
    assert [source.is_remote for source in found] == [False, True]
    assert found[1].name == "memory://mlclf-remote-or-not/a.parquet"


def test_fsspec_opens_other_uris() -> None:
    memory = fsspec.filesystem("memory")
    for name in ("/mlclf-sources/day=1/a.parquet", "/mlclf-sources/b.parquet"):
        with memory.open(name, "wb") as file:
            pq.write_table(pa.table({"x": [1, 2]}), file)
    sources, _ = find_sources(["memory://mlclf-sources"])
    assert [(source.relative, dict(source.partition)) for source in sources] == [
        ("b.parquet", {}),
        ("day=1/a.parquet", {"day": "1"}),
    ]
    with sources[1].open_parquet() as file:
        assert file.read().to_pydict() == {"x": [1, 2]}
    assert relatives("memory://mlclf-sources/b.parquet") == ["b.parquet"]


def test_hive_folders_count_however_the_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "day=2024-01-01/city=M%C3%BCnchen/kind=__HIVE_DEFAULT_PARTITION__/a.parquet")
    expected = (("day", "2024-01-01"), ("city", "München"), ("kind", None))
    for argument in (tmp_path, path.parent, path, tmp_path / "day=*" / "*" / "*"):
        assert find_sources([str(argument)])[0][0].partition == expected


def test_folders_above_the_data_are_no_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "run=3" / "data" / "day=1" / "part" / "hour=2" / "a.parquet")
    data, day = tmp_path / "run=3" / "data", (("day", "1"), ("hour", "2"))
    for argument in (data, data / "day=1", data / "*" / "*" / "hour=*", data / "day=*" / "**" / "*.parquet"):
        assert find_sources([str(argument)])[0][0].partition == day
    for argument in (path, path.parent, path.parent.parent, f"file://{path}"):
        assert find_sources([str(argument)])[0][0].partition == (("hour", "2"),)
    assert find_sources([str(tmp_path)])[0][0].partition == (("run", "3"), *day)


def test_credentials_stay_out_of_messages() -> None:
    with pytest.raises(DataError, match=r"^nosuch://host/x: no filesystem opens this URI") as caught:
        find_sources(["nosuch://user:secret@host/x?token=secret"])
    assert "secret" not in str(caught.value)


def test_messages(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = {
        (): "no data was given; name at least one Parquet file, folder, glob or URI",
        (f"{tmp_path}/no.parquet",): f"{tmp_path}/no.parquet: no such file; check the path",
        (str(empty),): f"{empty}: no Parquet file in this folder "
        "(looked for *.parquet, *.parq, *.pq, also in its folders); check the path",
        (f"{tmp_path}/no*.parquet",): f"no Parquet file matches '{tmp_path}/no*.parquet'; "
        "check the pattern, and quote it so that the shell leaves it",
        ("memory://nowhere/x.parquet",): "memory://nowhere/x.parquet: no such file; check the path",
        ("memory://nowhere/*.parquet",): "memory://nowhere/*.parquet: no such file; "
        "patterns are for local files: name the folder instead",
        (f"{tmp_path}/a", f"{tmp_path}/b"): f"{tmp_path}/a: no such file; check the path\n"
        f"{tmp_path}/b: no such file; check the path",
    }
    for arguments, message in cases.items():
        with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
            find_sources(arguments)
