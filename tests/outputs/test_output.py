# ruff: noqa: PT012  # what is refused is refused inside of a claim
"""Outputs: only what was written there is replaced, by one job at a time, and it appears whole or not at all."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlclf.errors import ConfigError, FullDiskError, RunError
from mlclf.files import write_bytes
from mlclf.outputs import claims, exchange, output, replacement
from mlclf.outputs.claims import beside
from mlclf.outputs.listing import Listing
from mlclf.outputs.output import claimed

OLD = {"a.bin": b"old a", "sub/b.bin": b"old b", "gone.bin": b"old c"}
NEW = {"a.bin": b"new a", "sub/b.bin": b"new b", "more/c.bin": b"new c"}


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def run_job(out: Path, files: dict[str, bytes], job: str = "job", **options: Any) -> list[str]:
    """A job that writes these files; returns its notes."""
    with claimed(out, job, **options) as claim:
        notes = claim.said()
        with claim.opened() as folder:
            for name, value in files.items():
                write_bytes(folder / name, value)
        return notes + claim.said()


def contents(folder: Path) -> dict[str, bytes]:
    """What is in the files below a folder, hidden ones too, without the list."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name != "_written.jsonl"}


def whole(files: dict[str, bytes]) -> dict[str, bytes]:
    return files | {"_SUCCESS": b""}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output that a job has written."""
    run_job(tmp_path / "out", OLD)
    return tmp_path / "out"


def test_an_output_has_a_list_of_its_files(out: Path) -> None:
    lines = [json.loads(line) for line in (out / "_written.jsonl").read_text().splitlines()]
    assert lines[0] == {"format_version": 1, "job": "job", "bound": {}, "open": []}
    assert lines[-1] == {"finished": True}
    listed = {line["file"]: (line["bytes"], line["sha256"]) for line in lines[1:-1]}
    done = subprocess.run(["sha256sum", *whole(OLD)], cwd=out, capture_output=True, text=True, check=True)
    hashes = {line[66:]: line[:64] for line in done.stdout.splitlines()}
    assert listed == {name: (len(value), hashes[name]) for name, value in whole(OLD).items()}
    assert contents(out.parent) == {f"out/{name}": value for name, value in whole(OLD).items()}


def test_what_was_written_is_replaced(out: Path) -> None:
    assert run_job(out, NEW, overwrite=True) == []
    assert contents(out.parent) == {f"out/{name}": value for name, value in whole(NEW).items()}
    (out / "a.bin").unlink()  # less than what was written may be replaced too
    run_job(out, OLD, overwrite=True)
    assert contents(out) == whole(OLD)


def test_what_is_there_is_kept_without_being_asked(out: Path) -> None:
    message = f"{out}: the folder is not empty; give another --out, or --overwrite"
    with pytest.raises(ConfigError, match=exactly(message)):
        run_job(out, NEW)
    with pytest.raises(ConfigError, match=exactly(message.replace("--overwrite", "--resume or --overwrite"))):
        run_job(out, NEW, resumable=True)
    assert contents(out.parent) == {f"out/{name}": value for name, value in whole(OLD).items()}


def touched(path: Path, value: bytes) -> None:
    """Change a file, its size and its time of writing kept."""
    status = path.stat()
    path.write_bytes(value)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def linked(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


FOREIGN: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "file": (lambda out: (out / "mine.txt").write_text("mine"), "mine.txt", "is not on the list"),
    "file in a folder": (
        lambda out: (out / "sub" / "mine.txt").write_text("mine"),
        "sub/mine.txt",
        "is not on the list",
    ),
    "hidden file": (lambda out: (out / ".mine").write_text("mine"), ".mine", "is not on the list"),
    "empty folder": (lambda out: (out / "mine").mkdir(), "mine", "is not on the list"),
    "folder": (lambda out: (out / "mine" / "deep").mkdir(parents=True), "mine", "is not on the list"),
    "changed": (lambda out: (out / "a.bin").write_bytes(b"changed"), "a.bin", "has changed since"),
    "same size and time": (lambda out: touched(out / "a.bin", b"new a"), "a.bin", "has changed since"),
    "link to the same": (lambda out: linked(out / "a.bin", out / "sub" / "b.bin"), "a.bin", "is not on the list"),
    "broken link": (lambda out: linked(out / "mine", out / "nothing"), "mine", "is not on the list"),
    "pipe": (lambda out: os.mkfifo(out / "pipe"), "pipe", "is not on the list"),
    "another's temporary folder": (lambda out: (out / ".x.tmp-1-01234567").mkdir(), ".x.tmp-1-01234567", "is not on"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_was_not_written_stops_the_job_before_it_begins(out: Path, kind: str) -> None:
    make, name, reason = FOREIGN[kind]
    make(out)
    before = sorted(out.parent.rglob("*")), contents(out.parent)
    message = f"^{out}: --overwrite replaces only what job wrote, and this folder holds {name!r}, which {reason}.*"
    with pytest.raises(ConfigError, match=message + "; move it away, or give another --out$"):
        run_job(out, NEW, overwrite=True)
    assert (sorted(out.parent.rglob("*")), contents(out.parent)) == before


def test_a_folder_behind_a_link_is_not_looked_into(out: Path, tmp_path: Path) -> None:
    (out / "sub").rename(tmp_path / "elsewhere")
    (out / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="this folder holds 'sub', which is not on the list"):
        run_job(out, NEW, overwrite=True)
    assert (tmp_path / "elsewhere" / "b.bin").read_bytes() == b"old b"


def test_an_output_without_a_list_is_not_replaced(out: Path) -> None:
    (out / "_written.jsonl").unlink()
    message = (
        f"{out}: --overwrite replaces only what job wrote, and this folder has no list of that (_written.jsonl; "
        "releases before this one wrote none); it holds '_SUCCESS', 'a.bin', 'gone.bin' and 1 more: give another "
        f"--out, or, if nothing of it is needed, remove it first: rm -r {out}"
    )
    with pytest.raises(ConfigError, match=exactly(message)):
        run_job(out, NEW, overwrite=True)
    assert contents(out) == whole(OLD)


def test_an_output_of_another_command_is_not_replaced(out: Path) -> None:
    message = f"{out}: --overwrite replaces only what other wrote, and this folder is of 'job'; give another --out"
    with pytest.raises(ConfigError, match=exactly(message)):
        run_job(out, NEW, "other", overwrite=True)


@pytest.mark.parametrize(
    "text",
    ["", "{}\n", "[]\n", "1\n", '{"format_version": 2, "job": "job", "bound": {}, "open": []}\n', "\xff\n", "[" * 9**5],
)
def test_a_list_that_is_not_understood_is_refused(out: Path, text: str) -> None:
    (out / "_written.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"_written\.jsonl: must be the list of what was written here, and cannot be"):
        run_job(out, NEW, overwrite=True)
    assert contents(out) == whole(OLD)


def test_a_torn_last_line_is_left_out(out: Path) -> None:
    with (out / "_written.jsonl").open("a") as file:
        file.write('{"file": "mine.t')
    run_job(out, NEW, overwrite=True)
    assert contents(out) == whole(NEW)


# ── where --out is ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_link_to_an_output_stays_one(out: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("out")
    run_job(tmp_path / "link", NEW, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert contents(out) == whole(NEW)
    (tmp_path / "broken").symlink_to("new")
    run_job(tmp_path / "broken", NEW)
    assert contents(tmp_path / "new") == whole(NEW)


def test_paths_may_be_relative_and_go_up(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run_job(Path("../here/../out"), NEW, overwrite=True)
    run_job(Path("a/b/c"), NEW)
    assert contents(out) == contents(tmp_path / "here" / "a" / "b" / "c") == whole(NEW)


def test_long_names_have_hidden_folders_of_their_own(tmp_path: Path) -> None:
    one, two = (tmp_path / ("n" * 254 + last) for last in "ab")
    assert len(beside(one).name) < 256
    assert beside(one) != beside(two)
    run_job(one, NEW)
    run_job(one, OLD, overwrite=True)
    assert contents(one) == whole(OLD)


def test_an_output_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    message = f"'{tmp_path / 'a'}' must be a folder, found a file; name a folder"
    with pytest.raises(ConfigError, match=exactly(message)):
        run_job(tmp_path / "a", NEW)
    with pytest.raises(
        ConfigError, match=r"a/b: cannot be written to \((Not a directory|File exists)\); check who may"
    ):
        run_job(tmp_path / "a" / "b", NEW)


def test_what_cannot_be_written_is_refused_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("fcntl.flock", refuse)
    message = (
        f"{tmp_path / 'a' / 'out'}: cannot be written to (Permission denied); check who may write there, or give "
        "another --out"
    )
    with pytest.raises(ConfigError, match=exactly(message)):
        run_job(tmp_path / "a" / "out", NEW)
    assert not (tmp_path / "a" / "out").exists()


def test_the_mode_of_the_folder_stays(out: Path) -> None:
    out.chmod(0o750)
    run_job(out, NEW, overwrite=True)
    assert out.stat().st_mode & 0o777 == 0o750


# ── input and output ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("argument", "place"),
    [
        ("data", "data/out"),
        ("data", "data"),
        ("data/", "data/day=1/out"),
        ("link", "data/out"),
        ("data", "link/out"),
        ("data/../data", "data/out"),
        ("d*", "data/out"),
        ("data/*", "data/out"),
        ("data/*/", "data/day=1"),
        ("data/**/*.parquet", "data/out"),
        ("**", "out"),
        ("file://{here}/data", "data/out"),
        ("file://localhost{here}/d%61ta", "data/out"),
        ("{here}/data", "data/out"),
    ],
)
def test_an_output_is_not_in_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bytes(tmp_path / "data" / "day=1" / "a.parquet", b"a")
    (tmp_path / "link").symlink_to("data")
    with pytest.raises(ConfigError, match=f"^{place}: --out must not be in .*; give another --out$"):
        run_job(Path(place), NEW, arguments=[argument.format(here=tmp_path)])
    assert contents(tmp_path) == {"data/day=1/a.parquet": b"a"} | {
        name: value for name, value in contents(tmp_path).items() if name.startswith("link/")
    }


@pytest.mark.parametrize(
    ("argument", "place"),
    [("data", "data2"), ("data/*.parquet", "data/out"), ("data/day=1", "data/out"), ("s3://bucket/data", "data/out")],
)
def test_an_output_may_be_beside_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bytes(tmp_path / "data" / "day=1" / "a.parquet", b"a")
    run_job(Path(place), NEW, arguments=[argument])
    assert contents(tmp_path / place) == whole(NEW)


def test_an_input_is_not_in_the_output(out: Path, tmp_path: Path) -> None:
    (tmp_path / "link.bin").symlink_to(out / "a.bin")
    for path in (out / "a.bin", tmp_path / "link.bin", tmp_path / "x" / ".." / "out" / "sub" / "b.bin"):
        message = f"{out}: --out must not hold the input {path}; give another --out"
        with claimed(out, "job", overwrite=True) as claim, pytest.raises(ConfigError, match=exactly(message)):
            claim.keep_apart([path])


# ── one job at a time, and jobs that were killed ────────────────────────────────────────────────────────────────────


def test_a_second_job_is_refused_at_once(out: Path) -> None:
    message = f"{out}: another job (job, process {os.getpid()}) is writing there; wait until it has ended, or give "
    with claimed(out, "job", overwrite=True) as claim, claim.opened() as folder:
        for options in ({}, {"overwrite": True}, {"resume": True}, {"adds": True}):
            with pytest.raises(ConfigError, match=exactly(message + "another --out")):
                run_job(out, OLD, "other", **options)
        write_bytes(folder / "a.bin", b"first")
    assert contents(out) == whole({"a.bin": b"first"})
    run_job(out, NEW, overwrite=True)


KILLED = """
import os, signal, sys
from pathlib import Path
from mlclf.files import write_bytes
from mlclf.outputs.output import claimed
with claimed(sys.argv[1], "job", overwrite=True) as claim, claim.opened() as folder:
    write_bytes(folder / "half.bin", b"half")
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_job_leaves_is_removed_by_the_next_which_says_so(out: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(out), "kill"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert contents(out) == whole(OLD)
    assert (beside(out) / "new" / "half.bin").exists()
    notes = run_job(out, NEW, overwrite=True)
    assert notes == [f"{out}: removed what a job that was killed had left in {beside(out)}"]
    assert contents(out.parent) == {f"out/{name}": value for name, value in whole(NEW).items()}
    assert list(out.parent.iterdir()) == [out]


def test_the_claim_is_lost_with_the_process(out: Path) -> None:
    arguments = [sys.executable, "-c", KILLED, str(out), "wait"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        with pytest.raises(ConfigError, match=rf"^{out}: another job \(job, process {other.pid}\) is writing there"):
            run_job(out, NEW, overwrite=True)
        other.kill()
    run_job(out, NEW, overwrite=True)
    assert list(out.parent.iterdir()) == [out]


def test_a_hidden_folder_of_somebody_else_is_in_the_way(out: Path) -> None:
    (beside(out)).mkdir()
    (beside(out) / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"mine\.txt is in the way and not of mlclf; move it, or give another --out$"):
        run_job(out, NEW, overwrite=True)
    assert (beside(out) / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_job_that_fails_leaves_what_was_there(out: Path, error: type[BaseException]) -> None:
    before = contents(out.parent)
    for place in (out, out.parent / "a" / "b"):
        with pytest.raises(error), claimed(place, "job", overwrite=True) as claim, claim.opened() as folder:
            write_bytes(folder / "half.bin", b"half")
            raise error
    assert contents(out.parent) == before
    assert list(out.parent.iterdir()) == [out]


def test_what_comes_while_a_job_runs_is_kept(out: Path) -> None:
    with pytest.raises(ConfigError) as error, claimed(out, "job", overwrite=True) as claim, claim.opened() as folder:
        write_bytes(folder / "a.bin", b"new a")
        (out / "notes.txt").write_text("mine")
    (kept,) = (path for path in out.parent.iterdir() if path != out)
    assert str(error.value) == (
        f"{out}: 'notes.txt', which is not on the list, came there while job ran; the new output is whole in {kept}"
    )
    assert contents(kept) == whole({"a.bin": b"new a"})
    assert contents(out) == whole(OLD) | {"notes.txt": b"mine"}


# ── systems without an exchange, and folders that cannot be renamed ─────────────────────────────────────────────────


class Killed(BaseException):
    """The process ends here: nothing after it is done."""


WAYS: dict[str, Callable[[pytest.MonkeyPatch, Path], None]] = {
    "exchange": lambda patch, out: None,
    "journal": lambda patch, out: patch.setattr(exchange, "exchanged", lambda *_: False),
    "mount point": lambda patch, out: patch.setattr(replacement, "_is_mounted", lambda place: True),
    "current folder": lambda patch, out: patch.chdir(out / "sub"),
    "nothing beside": lambda patch, out: patch.setattr("mlclf.outputs.claims._is_bound", lambda place: place.is_dir()),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_output_is_replaced_wherever_it_is(out: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    inode = out.stat().st_ino
    WAYS[way](monkeypatch, out)
    run_job(out, NEW, overwrite=True)
    assert contents(out.parent) == {f"out/{name}": value for name, value in whole(NEW).items()}
    assert sorted(path.name for path in out.iterdir()) == ["_SUCCESS", "_written.jsonl", "a.bin", "more", "sub"]
    assert (out.stat().st_ino == inode) == (way not in ("exchange", "journal"))
    assert list(out.parent.iterdir()) == [out]
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=re.escape("holds 'mine.txt', which is not on the list")):
        run_job(out, OLD, overwrite=True)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_kill_at_any_step_leaves_a_whole_output_after_the_next_command(tmp_path: Path, way: str) -> None:
    """Killed before each step of the exchange in turn; what is cleaned up after an exception is not, after a kill."""
    steps, last = 0, False
    while not last:
        steps += 1
        out = tmp_path / str(steps) / "out"
        run_job(out, OLD)
        with pytest.MonkeyPatch.context() as patch:
            WAYS[way](patch, out)
            last = not killed_at(steps, out, patch)
        if not last:
            with claimed(out, "job", adds=True) as claim:
                claim.said()
            if way in ("exchange", "journal"):
                assert contents(out) in (whole(OLD), whole(NEW))
        assert contents(out) == whole(NEW if last else OLD if contents(out).get("a.bin") == b"old a" else NEW)
        assert list(out.parent.iterdir()) == [out]
    assert steps > 1


def killed_at(step: int, out: Path, patch: pytest.MonkeyPatch) -> bool:
    """Run a job that is killed at the given change of a name; False where it ends before."""
    left = step

    def dying(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            if not started:
                return original(*arguments, **options)
            left -= 1
            if left <= 0:
                raise Killed
            return original(*arguments, **options)

        return call

    started: list[bool] = []
    for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
        patch.setattr(os, name, dying(getattr(os, name)))
    with patch.context() as inner:
        original = output.put_in_place
        inner.setattr(output, "put_in_place", lambda *given: started.append(True) or original(*given))
        try:
            run_job(out, NEW, overwrite=True)
        except Killed:
            return True
    return False


# ── outputs that grow in their place ────────────────────────────────────────────────────────────────────────────────


def test_an_output_that_grows_can_be_gone_on_with(tmp_path: Path) -> None:
    out, bound, what = tmp_path / "out", {"run": "one"}, {"run": "the run"}
    with pytest.raises(ValueError, match="stop"), claimed(out, "job") as claim, claim.opened(grows=True, bound=bound):
        with claim.part("a.bin", "input a") as path:
            path.write_bytes(b"a")
        raise ValueError("stop")
    assert contents(out) == {"a.bin": b"a"}
    with claimed(out, "job", resume=True) as claim:
        different = (
            f"{out}: --resume goes on with what was made of the same things, and different from what is there is the "
            "run; give what was given before, another --out, or --overwrite"
        )
        with pytest.raises(ConfigError, match=exactly(different)):
            claim.resumed({"run": "two"}, what)
        found = claim.resumed(bound, what)
        assert found is not None
        assert found.listing.made_of == {"a.bin": "input a"}
        assert found.is_ours("a.bin")
        with claim.opened(grows=True), claim.part("b.bin") as path:
            path.write_bytes(b"b")
    assert contents(out) == whole({"a.bin": b"a", "b.bin": b"b"})
    run_job(out, NEW, overwrite=True)


def test_an_output_that_never_had_a_file_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), claimed(tmp_path / "a" / "out", "job") as claim:  # noqa: SIM117
        with claim.opened(grows=True, names=["log", "deep/*"]) as folder:
            write_bytes(folder / "log", b"begun")
            write_bytes(folder / "deep" / "x", b"begun")
            raise ValueError("stop")
    assert not (tmp_path / "a").exists()


def test_open_names_may_be_replaced_until_the_job_has_ended(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), claimed(out, "job") as claim:  # noqa: SIM117
        with claim.opened(grows=True, names=["log", "deep/*"]) as folder:
            write_bytes(folder / "log", b"begun")
            write_bytes(folder / "deep" / "x", b"begun")
            claim.goes_on = True
            raise KeyboardInterrupt
    (out / "log").write_bytes(b"more")
    (out / "deep" / "mine").mkdir()
    with pytest.raises(ConfigError, match="holds 'deep/mine', which is not on the list"):
        run_job(out, NEW, overwrite=True)
    (out / "deep" / "mine").rmdir()
    with claimed(out, "job", resume=True) as claim, claim.opened(grows=True):
        write_bytes(out / "log", b"done")
        (out / "mine").write_bytes(b"came while it ran")
    assert Listing.read(out) is not None
    with pytest.raises(ConfigError, match="holds 'mine', which is not on the list"):
        run_job(out, NEW, overwrite=True)
    (out / "mine").unlink()
    (out / "log").write_bytes(b"edited")
    with pytest.raises(ConfigError, match="holds 'log', which has changed since"):
        run_job(out, NEW, overwrite=True)
    (out / "log").write_bytes(b"done")
    run_job(out, NEW, overwrite=True)


def test_a_file_that_is_written_again_stays_ours_at_every_moment(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise Killed

    with claimed(out, "calibrate", adds=True) as claim:
        claim.rewrite_json("a.bin", {"new": 1})
        monkeypatch.setattr(output, "write_bytes", stop)
        with pytest.raises(Killed):
            claim.rewrite_json("a.bin", {"newer": 2})
    assert json.loads((out / "a.bin").read_text()) == {"new": 1}
    run_job(out, NEW, overwrite=True)
    assert contents(out) == whole(NEW)


# ── a full disk ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [28, 122])
def test_a_full_disk_says_what_is_needed_and_leaves_nothing(out: Path, number: int) -> None:
    message = (
        rf"^{out}: the disk is full: it takes about 1,000 bytes, \d+ were written, and [\d,]+ are free now; what was "
        "begun is removed: make room, then run the same command again$"
    )
    with pytest.raises(FullDiskError, match=message), claimed(out, "job", overwrite=True) as claim:  # noqa: SIM117
        with claim.opened() as folder:
            claim.needs_bytes = 1_000
            write_bytes(folder / "a.bin", b"half")
            raise OSError(number, "no room")
    assert contents(out.parent) == {f"out/{name}": value for name, value in whole(OLD).items()}


def test_a_full_disk_keeps_what_can_be_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(FullDiskError) as error, claimed(out, "job") as claim, claim.opened(grows=True):
        with claim.part("a.bin") as path:
            path.write_bytes(b"a")
        with claim.part("b.bin") as path:
            path.write_bytes(b"b")
            raise OSError(28, "no room")
    assert str(error.value).endswith("; what is whole is kept: make room, then go on with --resume")
    assert error.value.resume
    assert contents(out) == {"a.bin": b"a"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
def test_a_file_system_that_is_full_and_a_mount_point(tmp_path: Path) -> None:
    out = tmp_path / "mounted"
    out.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(out)], check=False)
    if mounted.returncode:
        pytest.skip("this system mounts nothing here")
    try:
        run_job(out, {"a.bin": bytes(50_000)})
        run_job(out, {"b.bin": bytes(60_000)}, overwrite=True)
        with pytest.raises(
            FullDiskError, match=rf"^{out}: the disk is full: .* and [\d,]+ are free now; what was begun"
        ):
            run_job(out, {"c.bin": bytes(500_000)}, overwrite=True)
        assert contents(out) == whole({"b.bin": bytes(60_000)})
    finally:
        subprocess.run(["umount", str(out)], check=True)


# ── before reading ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_whoever_reads_an_output_finds_it_whole(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between two renames: there is no output until the next command, one that reads it too."""

    def stop(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(exchange, "exchanged", lambda *_: False)
    original = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, target: stop() if path.name == "new" else original(path, target))
    monkeypatch.setattr(claims.Claim, "clean", lambda self: None)
    with pytest.raises(Killed):
        run_job(out, NEW, overwrite=True)
    monkeypatch.undo()
    assert not out.exists()
    output.settle_before_reading(out / "sub")
    assert contents(out) == whole(NEW)
    assert list(out.parent.iterdir()) == [out]
    output.settle_before_reading("no\0path")


@pytest.mark.parametrize("change", [{"inode": 1}, {"remove": ["../mine.txt"]}, {"remove": None}, {"format_version": 2}])
def test_a_journal_that_came_from_elsewhere_changes_nothing(out: Path, change: dict[str, Any]) -> None:
    """Such as in a copy, or in an archive that somebody else made."""
    work = out / ".mlclf"
    write_bytes(work / "new" / "a.bin", b"new a")
    (out.parent / "mine.txt").write_text("mine")
    journal = {"format_version": 1, "inode": work.stat().st_ino, "remove": ["gone.bin"]} | change
    (work / "ready.json").write_text(json.dumps(journal))
    before = contents(out.parent)
    for _ in range(2):
        with pytest.raises(RunError):
            output.settle_before_reading(out)
        with pytest.raises(RunError):
            run_job(out, NEW, overwrite=True)
    assert contents(out.parent) == before


def test_links_in_a_circle_are_refused_as_an_output(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    message = f"^{str(loop)!r} must be a folder, found links that lead in a circle; name a folder$"
    with pytest.raises(ConfigError, match=message), claimed(loop, "job"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]
