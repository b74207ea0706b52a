from __future__ import annotations

import os
import re
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.data.storage.finding import find_sources
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


def warnings_of(*arguments: str | Path) -> list[str]:
    return find_sources([str(argument) for argument in arguments])[1]


def test_parquet_files_are_read_whatever_their_names_end_in(tmp_path: Path) -> None:
    names = ["B.PARQUET", "a.parquet", "c.parquet.gzip", "d.Parq", "day=1/000000_0", "e.pq.zst"]
    for name in names:
        write(tmp_path / name)
    for name in ("README", "empty", "day=1/marker"):
        (tmp_path / name).write_text("no data at all" * (name != "empty"))
    assert relatives(tmp_path) == names
    assert warnings_of(tmp_path) == []


def test_files_that_are_passed_over_are_named(tmp_path: Path) -> None:
    for name in ("a.parquet", "_b.parquet", ".c.parquet", "_tmp/d.PARQUET", ".e/f.parquet"):
        write(tmp_path / name)
    for name in ("g.csv", "h.json.gz", "i.parquet.gz", "j.parquet.bak", "notes.md", "_SUCCESS", ".k.csv", "l.parquet~"):
        (tmp_path / name).write_text("this is no Parquet file")
    hidden = "4 files are passed over, hidden by names that begin with '.' or '_': '.c.parquet', '.e/f.parquet', "
    others = "5 files are passed over, not in Parquet: 'g.csv', 'h.json.gz', 'i.parquet.gz' and 2 more; "
    expected = [
        f"{tmp_path}: {hidden}'_b.parquet' and 1 more; name such a file to read it",
        f"{tmp_path}: {others}'mlclf convert' writes CSV, Arrow and more as Parquet",
    ]
    assert relatives(tmp_path) == ["a.parquet"]
    assert warnings_of(tmp_path) == expected
    write(tmp_path / "_b.parquet")
    assert warnings_of(tmp_path / "*.parquet") == [
        (
            f"{tmp_path}/*.parquet: 1 file is passed over, hidden by names that begin with '.' or '_': '_b.parquet'; "
            "name such a file to read it"
        )
    ]
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(DataError) as error:
        find_sources([str(tmp_path)])
    assert str(error.value).startswith(
        f"{tmp_path}: no Parquet file in this folder (looked for *.parquet, *.parq, *.pq, also in its folders); "
        "4 files are passed over, hidden by names that begin with '.' or '_': "
    )


def test_files_that_are_passed_over_behind_a_uri(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    content = write(tmp_path / "a.parquet").read_bytes()
    for name in ("a.parquet", "B.PARQUET", "c.parquet.gzip", "_d.parquet", "000000_0"):
        with memory.open(f"/mlclf-chosen/{name}", "wb") as file:
            file.write(content)
    with memory.open("/mlclf-chosen/e.csv", "wb") as file:
        file.write(b"x\n1\n")
    assert relatives("memory://mlclf-chosen") == ["000000_0", "B.PARQUET", "a.parquet", "c.parquet.gzip"]
    assert [warning.partition(": ")[2] for warning in warnings_of("memory://mlclf-chosen")] == [
        "1 file is passed over, hidden by names that begin with '.' or '_': '_d.parquet'; name such a file to read it",
        ("1 file is passed over, not in Parquet: 'e.csv'; 'mlclf convert' writes CSV, Arrow and more as Parquet"),
    ]
    with memory.open("/mlclf-chosen/part/_delta_log/0.json", "wb") as file:
        file.write(b"{}")
    with pytest.raises(DataError, match=r"^memory://mlclf-chosen/part: .* is a Delta table, "):
        find_sources(["memory://mlclf-chosen"])


TABLE_FILES = {
    "_delta_log/00000000000000000000.json": "a Delta table",
    "metadata/v1.metadata.json": "an Iceberg table",
    "metadata/00000-6a.gz.metadata.json": "an Iceberg table",
    ".hoodie/hoodie.properties": "a Hudi table",
}


@pytest.mark.parametrize("log", TABLE_FILES)
def test_tables_are_not_read_as_plain_files(tmp_path: Path, log: str) -> None:
    table = tmp_path / "in" / "table"
    path = write(table / "data" / "day=1" / "a.parquet")
    write(tmp_path / "in" / "b.parquet")
    (table / log).parent.mkdir()
    (table / log).write_text("{}")
    message = (
        f"{table}: the folder must hold plain Parquet files, and is {TABLE_FILES[log]}, of whose files some may be "
        "overwritten or deleted; read its rows with a library of that format, and write them as Parquet to a folder of "
        "their own"
    )
    patterns = [tmp_path / "in" / "*", tmp_path / "in" / "*" / "*" / "*", table / "data" / "day=*" / "*.parquet"]
    for argument in (tmp_path / "in", table, table / "data", path.parent, path, *patterns):
        with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
            find_sources([str(argument)])
    assert relatives(tmp_path / "in" / "b.parquet") == ["b.parquet"]


def test_folders_that_are_no_tables(tmp_path: Path) -> None:
    write(tmp_path / "metadata" / "a.parquet")
    (tmp_path / "metadata" / "notes.json").write_text("{}")
    assert relatives(tmp_path) == ["metadata/a.parquet"]


def test_a_glob_is_a_glob_where_a_file_is_called_so(tmp_path: Path) -> None:
    for name in ("a[12].parquet", "a1.parquet", "a2.parquet", "b*/x.parquet", "bc/y.parquet"):
        write(tmp_path / name)
    assert relatives(tmp_path / "a[12].parquet") == ["a1.parquet", "a2.parquet", "a[12].parquet"]
    assert warnings_of(tmp_path / "a[12].parquet") == [
        (
            f"{tmp_path}/a[12].parquet is the name of a file, and a pattern that 'a1.parquet', 'a2.parquet' match(es): "
            f"all of them are read; '{tmp_path}/a[[]12].parquet' is the file alone"
        )
    ]
    assert relatives(tmp_path / "a[[]12].parquet") == ["a[12].parquet"]
    assert relatives(tmp_path / "b*") == ["b*/x.parquet", "bc/y.parquet"]
    assert warnings_of(tmp_path / "a[[]12].parquet") == []
