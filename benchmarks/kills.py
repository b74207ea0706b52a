"""Kills at random moments while an output is replaced: a whole old or a whole new one must be there, and nothing else.

    python benchmarks/kills.py [--each 100] [--seed 0] [--commands fit predict apply convert shuffle split] [--journal]

For each command there is an old output, and the command replaces it with --overwrite by one of other data. It is killed
(SIGKILL), in every second trial after a random time, in the others at a random one of its steps on files and folders:
opening, making, renaming, removing. Then the output must be the old or the new one, byte for byte (of a run: each file
but those with times in them), the input and files of others beside it as they were. The same command once more must
succeed, leave the new output, and nothing else in the folder. Commands run in processes forked from one that has
imported all that they need.

With --journal folders are not exchanged in one step, as on systems that cannot; where a kill leaves no output then, the
next command that reads it must find one. The last line is 'N passed, N failed', with a trial for each; exits 1 when one
fails.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

COMMANDS = ("fit", "predict", "apply", "convert", "shuffle", "split")
TIMED = ("log.jsonl", "run.json", "manifest.json", "_written.jsonl")
"""Files of a run in which times of writing stand."""

STEPS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "ctypes.dlsym")
Contents = dict[str, bytes]


def main() -> int:
    arguments = parse_arguments()
    imported()
    if arguments.journal:
        exchange_by_journal()
    passed = failed = 0
    with tempfile.TemporaryDirectory() as name:
        for command in arguments.commands:
            trials = Trials.prepared(command, Path(name) / command)
            problems = []
            for number in range(arguments.each):
                seed = f"{arguments.seed} {command} {number}"
                problem = trials.run(random.Random(seed))
                problems += [f"FAIL seed {seed!r}: {problem}"] if problem else []
            print("\n".join([*problems, trials.summary()]), flush=True)
            passed, failed = passed + arguments.each - len(problems), failed + len(problems)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=100, help="kills of each command")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=COMMANDS)
    parser.add_argument("--journal", action="store_true", help="as on a system without an exchange")
    return parser.parse_args()


def imported() -> None:
    """Import what the commands need; threads are started by the processes that need them."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    import mlclf.cli
    import mlclf.cli.display  # noqa: F401

    torch.set_num_threads(1)


def exchange_by_journal() -> None:
    from mlclf.outputs import exchange

    exchange.exchanged = lambda one, other: False


@dataclass
class Trials:
    """The trials of one command in one folder.

    Attributes:
        folder: holds `data` (the inputs), `others` (files of somebody else), `old` and `new` (outputs to compare with),
            and `here`, in which `out` is replaced.
        command: its arguments, without --out.
        seconds, steps: what it takes, when nobody kills it.
        counts: how the trials went.
    """

    folder: Path
    command: list[str]
    seconds: float = 0.0
    steps: int = 0
    counts: dict[str, int] = field(default_factory=lambda: {"old": 0, "new": 0, "ended before": 0})

    @property
    def out(self) -> Path:
        return self.folder / "here" / "out"

    @classmethod
    def prepared(cls, command: str, folder: Path) -> Trials:
        """Make data and the two outputs."""
        folder.mkdir(parents=True)
        finished(lambda: make_data(folder / "data"))
        old, new = (command_line(command, folder / "data" / name, folder) for name in ("old", "new"))
        for name in ("others", "here/others"):
            (folder / name).mkdir(parents=True)
            (folder / name / "notes.txt").write_text("mine")
            (folder / name / ".hidden.tmp-1-00000000").write_text("mine too")
        trials = cls(folder, new)
        for name, made_by in (("old", old), ("new", new)):
            trials.expect(made_by, trials.out)
            trials.out.rename(folder / name)
        for _ in range(2):
            trials.reset()
            started = time.perf_counter()
            trials.expect(new, trials.out, "--overwrite")
            trials.seconds = max(trials.seconds, time.perf_counter() - started)
        trials.reset()
        counted = folder / "steps"
        finished(lambda: count_steps(new, trials.out, counted))
        trials.steps = int(counted.read_text())
        return trials

    def reset(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.copytree(self.folder / "old", self.out)

    def expect(self, command: list[str], out: Path, *more: str) -> None:
        code = run(command, out, self.folder / "err", *more)
        if code != 0:
            raise SystemExit(f"{' '.join(command)}: exit {code}: {(self.folder / 'err').read_text()}")

    def run(self, chance: random.Random) -> str:
        """Kill the command once; returns what is wrong then, or after the next command."""
        self.reset()
        before = contents(self.folder / "data"), contents(self.folder / "here" / "others")
        how = self.killed(chance)
        if not self.out.exists():
            finished(lambda: settle(self.out))
            self.counts["mended"] = self.counts.get("mended", 0) + 1
        found = self.which(self.out)
        if found is None:
            return f"after the kill {how} --out is neither the old nor the new output: {self.names()}"
        code = run(self.command, self.out, self.folder / "err", "--overwrite")
        if code != 0:
            return f"after the kill {how} the next command: exit {code}: {(self.folder / 'err').read_text()}"
        if self.which(self.out) != "new":
            return f"after the kill {how} the next command leaves another output: {self.names()}"
        left = sorted(path.name for path in (self.folder / "here").iterdir() if path.name not in ("out", "others"))
        if left:
            return f"after the kill {how} and the next command {left[0]!r} is left"
        if before != (contents(self.folder / "data"), contents(self.folder / "here" / "others")):
            return f"after the kill {how} files of others are not as they were"
        self.counts[found] += 1
        return ""

    def killed(self, chance: random.Random) -> str:
        """Run the command and kill it at some moment; returns when that was."""
        if chance.random() < 0.5:
            step = chance.randrange(1, self.steps + 1)
            started(lambda: die_at(step, self.command, self.out)).wait()
            return f"at step {step} of {self.steps}"
        seconds = chance.random() * self.seconds
        child = started(lambda: run_here(self.command, self.out, Path(os.devnull), "--overwrite"))
        time.sleep(seconds)
        self.counts["ended before"] += child.kill()
        return f"after {seconds:.3f} s of {self.seconds:.3f}"

    def which(self, out: Path) -> str | None:
        """Whether a folder is the old output or the new one; None where it is neither."""
        there = contents(out)
        for name in ("old", "new"):
            wanted = contents(self.folder / name)
            same = {file for file in wanted if "run.json" not in wanted or file not in TIMED}
            if there.keys() == wanted.keys() and all(there[file] == wanted[file] for file in same):
                return name
        return None

    def names(self) -> str:
        return ", ".join(sorted(contents(self.folder / "here")))

    def summary(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        return f"{self.command[0]}: {counts} ({self.seconds:.2f} s and {self.steps} steps each)"


def settle(out: Path) -> None:
    """What every command does before it reads a folder."""
    from mlclf.outputs.output import settle_before_reading

    settle_before_reading(out)


def command_line(command: str, data: Path, folder: Path) -> list[str]:
    """The arguments of a command on data, without --out; what it needs beside them is made."""
    quick = ["--labels", "label_*", "--set", "optimizer.l2=0.1", "--valid-fraction", "0.3"]
    table, err = data / "table", folder / "err"
    if command == "fit":
        return ["fit", str(table), *quick]
    if command == "convert":
        return ["convert", str(data / "rows.csv")]
    if command in ("predict", "apply"):
        if run(["fit", str(table), *quick], data / "run", err) != 0:
            raise SystemExit(err.read_text())
        if command == "predict":
            return ["predict", str(data / "run"), str(table)]
        if run(["predict", str(data / "run"), str(table)], data / "scores", err) != 0:
            raise SystemExit(err.read_text())
        return ["apply", str(data / "scores"), str(data / "run" / "thresholds.json")]
    return [command, str(table)]


def make_data(folder: Path) -> None:
    """Small tables and a CSV file, old and new."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    for seed, name in enumerate(("old", "new")):
        drawn = np.random.default_rng(seed)
        (folder / name / "table").mkdir(parents=True)
        for part in range(3):
            inputs = drawn.normal(size=(120, 3))
            columns = {f"x{index}": inputs[:, index] for index in range(3)}
            columns["label_a"] = inputs[:, 0] + drawn.normal(size=120) > 0
            columns["label_b"] = inputs[:, 1] + drawn.normal(size=120) > 0
            pq.write_table(pa.table(columns), folder / name / "table" / f"p{part}.parquet", row_group_size=40)
        csv.write_csv(pa.table(columns), folder / name / "rows.csv")


# ── processes ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Child:
    """A forked process."""

    pid: int

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> bool:
        """Kill it; whether it had ended before."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return self.wait() != -signal.SIGKILL


def started(work: Callable[[], int | None]) -> Child:
    """A process that does some work and ends."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return Child(pid)
    code = 1
    try:
        code = work() or 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        os._exit(code)


def finished(work: Callable[[], int | None]) -> None:
    code = started(work).wait()
    if code != 0:
        raise SystemExit(f"a process that was not to be killed ended with {code}")


def run(command: list[str], out: Path, err: Path, *more: str) -> int:
    return started(lambda: run_here(command, out, err, *more)).wait()


def run_here(command: list[str], out: Path, err: Path, *more: str) -> int:
    """Run a command line in this process."""
    from mlclf.cli import main as command_line_main

    with Path(os.devnull).open("w") as nothing, err.open("w") as errors:
        os.dup2(nothing.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        sys.argv = ["mlclf", *command, "--out", str(out), *more]
        command_line_main()
    return 0


def watch(folder: Path, call: Callable[[], None]) -> None:
    """Call at each step of this process on what is below a folder, and where a system call is looked up."""
    below = os.fsencode(folder)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in STEPS and (event == "ctypes.dlsym" or below in _path_of(arguments)):
            call()

    sys.addaudithook(hook)


def _path_of(arguments: tuple[object, ...]) -> bytes:
    first = arguments[0] if arguments else b""
    return os.fsencode(first) if isinstance(first, str | bytes | os.PathLike) else b""


def count_steps(command: list[str], out: Path, counted: Path) -> None:
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    watch(out.parent, count)
    try:
        run_here(command, out, Path(os.devnull), "--overwrite")
    except SystemExit as stop:
        if stop.code:
            raise
    counted.write_text(str(steps))


def die_at(step: int, command: list[str], out: Path) -> int:
    left = step

    def die() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    watch(out.parent, die)
    return run_here(command, out, Path(os.devnull), "--overwrite")


def contents(folder: Path) -> Contents:
    """What is in the files below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


if __name__ == "__main__":
    sys.exit(main())
