"""Mutants of Parquet files: each is read with the values that pyarrow reads, or refused with one clear error.

    python benchmarks/mutants.py [--count 500] [--seed 0] [--oddfiles DIR] [--jobs 2] [--keep DIR]

Files of many types, encodings and codecs are made, some of DIR added, and each mutant is one of them with bits flipped,
bytes taken out, doubled or cut off, or numbers of its footer and page headers replaced. It is inspected, fitted (l2
fixed) and scored by a run of the sound file, in warm processes with 20 s a mutant and 2 GiB of resident memory. It
passes where each job works or ends in an `MlclfError` with a message, and where all columns are decoded, by pyarrow and
where it may by polars, to what pyarrow reads. Mutant number i of a seed is always the same. Exits 1 when one fails; the
last line is 'N passed, N failed'.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import selectors
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from made_parquet import made_files
from oddfiles import resident_bytes

MOST_SECONDS = 20.0
MOST_BYTES = 2 << 30
POLL_SECONDS = 0.05
LABEL_VALUES = ({0, 1}, {0, 1, None}, {False, True}, {False, True, None})
MOST_ODD_BYTES = 1 << 20
NUMBERS = (0, 1, -1, 2, 3, 127, 255, 1000, 2**15, 2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1, -(2**63))


@dataclass(frozen=True)
class Base:
    """A sound file: its name, bytes, a column for a label (None: it is only inspected), and a run of it, if it fits.

    `pages` are where the first pages of its column chunks begin, if pyarrow can say so.
    """

    name: str
    data: bytes
    label: str | None
    pages: tuple[int, ...] = ()
    run: Path | None = None


def main() -> int:
    parser = argparse.ArgumentParser(description="Give mutants of Parquet files to inspect, fit and predict.")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--oddfiles", type=Path, metavar="DIR", help="more files to make mutants of")
    parser.add_argument("--jobs", type=int, default=2, help="mutants worked on side by side")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="folder for the mutants that fail")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mutants-", dir=memory_folder()) as folder:
        return run(arguments, Path(folder))


def memory_folder() -> str | None:
    """A folder in memory, where there is one, so that the disk is not what is measured."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def run(arguments: argparse.Namespace, folder: Path) -> int:
    bases = [Base(name, data, "y", page_starts(data)) for name, data in made_files().items()]
    bases += list(odd_bases(arguments.oddfiles)) if arguments.oddfiles else []
    warm(bases[0], folder)
    bases = [with_run(base, folder / f"base{number}") for number, base in enumerate(bases)]
    numbers = iter(range(arguments.first, arguments.first + arguments.count))
    outcomes: Counter[str] = Counter()
    failed, workers = 0, [Worker(bases, arguments.seed, folder, place) for place in range(arguments.jobs)]
    waiting = selectors.DefaultSelector()
    for worker in workers:
        waiting.register(worker.results, selectors.EVENT_READ, worker)
    active = [worker for worker in workers if worker.begin(next(numbers, None))]
    while active:
        waiting.select(POLL_SECONDS)
        for worker in list(active):
            ended = worker.ended()
            if ended is None:
                continue
            if worker.is_dead:
                waiting.unregister(worker.results)
                worker.restart()
                waiting.register(worker.results, selectors.EVENT_READ, worker)
            outcome, problem = ended
            outcomes[outcome] += 1
            if problem:
                failed += 1
                report(worker, problem, bases, arguments)
            if not worker.begin(next(numbers, None)):
                active.remove(worker)
    for worker in workers:
        worker.close()
    total = sum(outcomes.values())
    print(", ".join(f"{count:,} {what}" for what, count in outcomes.most_common()), f"of {total:,} mutants")
    print(f"{total - failed} passed, {failed} failed")
    return 1 if failed else 0


def report(worker: Worker, problem: str, bases: list[Base], arguments: argparse.Namespace) -> None:
    base, kind, data = mutant(bases, arguments.seed, worker.number)
    print(f"FAIL mutant {worker.number} of {base.name} ({kind}): {problem[:600]}", flush=True)
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
        (arguments.keep / f"{worker.number}.parquet").write_bytes(data)


def odd_bases(folder: Path) -> Iterator[Base]:
    """Files of a folder that pyarrow may or may not read, with their first column of 0 and 1."""
    paths = sorted(path for path in folder.rglob("*") if ".parquet" in path.name and path.is_file())
    for path in paths:
        if path.stat().st_size <= MOST_ODD_BYTES:
            data = path.read_bytes()
            label = in_fork(lambda path=path: label_of(path))
            # in a fork, since pyarrow aborts where it is asked for a column chunk that is encrypted
            pages = in_fork(lambda data=data: page_starts(data))
            yield Base(path.name, data, label if isinstance(label, str) else None, pages or ())


def label_of(path: Path) -> str | None:
    file = pq.ParquetFile(path, pre_buffer=False)
    for name in file.schema_arrow.names:
        if file.schema_arrow.names.count(name) == 1 and name:
            values = set(map(str, file.read(columns=[name]).column(0).to_pylist()[:5000]))
            if values and values <= {"0", "1", "None", "True", "False"}:
                return str(name)
    return None


# ── jobs on one mutant ──────────────────────────────────────────────────────────────────────────────────────────────


def warm(base: Base, folder: Path) -> None:
    """Load all that a worker needs, and start no thread, since those are lost in a fork."""
    import torch

    from mlclf.data.parquet import column_statistics as footers
    from mlclf.data.parquet import columns_for_polars as for_polars
    from mlclf.data.parquet import readers
    from mlclf.data.where import row_groups as pruning

    torch.set_num_threads(1)
    readers.NICENESS = 0  # there is one thread at a time, which should not wait for other processes
    for module in (footers, for_polars, pruning):
        module.in_child = forked_answers  # as apart from this process, and warm
    for name in in_fork(lambda: loaded(base, folder)) or ():
        with suppress(Exception):
            import_module(name)


def loaded(base: Base, folder: Path) -> list[str]:
    """The modules that the jobs have loaded when they are done, in that order."""
    quietly(lambda: judged(with_run(base, folder / "first"), base.data, folder))
    return list(sys.modules)


def quietly(work: Callable[[], Any]) -> Any:
    """The result of `work()`, in a fork; what is printed from here on is lost."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)
    return work()


def forked_answers(task: str, shards: Any, arguments: Any) -> list[Any] | None:
    """As `mlclf.data.parquet.child_process.in_child`, in a fork."""
    from mlclf.data import child_tasks
    from mlclf.data.parquet import child_process as child

    tasks: dict[str, Callable[..., Any]] = {
        "describe": child_tasks.described,
        "polars": child_tasks.columns_for_polars,
        "match": child_tasks.groups_that_may_match,
    }
    files = [child._known(shard) for shard in shards]

    def work() -> list[Any]:
        return [json.loads(json.dumps(tasks[task](file, *given))) for file, given in zip(files, arguments, strict=True)]

    answers = in_fork(work)
    return answers if isinstance(answers, list) else None


def in_fork(work: Callable[[], Any]) -> Any:
    """The result of `work()` in a fork of this process; None where that ended otherwise."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read_end)
            with os.fdopen(write_end, "wb") as file:
                file.write(pickle.dumps(work()))
            os._exit(0)
        except BaseException:
            os._exit(1)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as file:
        data = file.read()
    os.waitpid(child, 0)
    try:
        return pickle.loads(data)
    except Exception:
        return None


def with_run(base: Base, folder: Path) -> Base:
    """The base with a run that was fitted on it, where it can be."""
    if base.label is None:
        return base
    path = folder.with_suffix(".parquet")
    path.write_bytes(base.data)
    fitted = in_fork(lambda: quietly(lambda: fit(path, str(base.label), folder)) is None)
    return replace(base, run=folder if fitted else None)


def fit(path: Path, label: str, out: Path) -> None:
    import mlclf

    settings = {"optimizer.l2": 0.1, "features.knots": "none", "runtime.cache": "off", "runtime.threads": 1}
    mlclf.fit(str(path), label, out, valid_fraction=0, settings=settings)


def judged(base: Base, data: bytes, folder: Path) -> tuple[str, str]:
    """What became of one mutant: an outcome in a word or two, and what is wrong with it, if anything."""
    path = folder / "mutant.parquet"
    path.write_bytes(data)
    worked = []
    for job, work in jobs(base, path, folder):
        problem = attempted(work)
        if problem is None:
            worked.append(job)
        elif problem:
            return "failed", f"{job}: {problem}"
    return ("read" if "decode" in worked else "refused in part" if worked else "refused"), ""


def jobs(base: Base, path: Path, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    import mlclf
    from mlclf.data.inspection.report import inspect
    from mlclf.data.inspection.summary import summary_lines

    yield "inspect", lambda: summary_lines(inspect(str(path)))
    yield "decode", lambda: compared(path, is_plain=False)
    yield "decode by polars", lambda: compared(path, is_plain=True)
    if base.label is not None:
        for name in ("run", "scores"):
            shutil.rmtree(folder / name, ignore_errors=True)
        yield "fit", lambda: fit(path, str(base.label), folder / "run")
        if base.run is not None:
            run = base.run
            yield "predict", lambda: scored(mlclf.Run.open(run).predict(str(path), folder / "scores"), path)


def attempted(work: Callable[[], object]) -> str | None:
    """None where it worked, the empty text where it was refused in good form, else what is wrong."""
    from mlclf.errors import MlclfError

    try:
        work()
    except MlclfError as error:
        said = str(error)
        if not said or "defect" in said or not said.replace("\n", "").isprintable() or len(said) > 20_000:
            return f"a message that does not help: {said[:300]!r}"
        return ""
    except DifferError as error:
        return str(error)
    except BaseException as error:  # polars panics with one that is no Exception
        return f"{type(error).__name__}: {error}"
    return None


class DifferError(Exception):
    """Something was read otherwise than pyarrow reads it."""


def compared(path: Path, *, is_plain: bool) -> None:
    """Decode all columns, and compare them with what pyarrow reads."""
    import mlclf.data.parquet.columns_for_polars as for_polars
    from mlclf.data.parquet.decoding import check_values, decode_unit
    from mlclf.data.parquet.planning import make_plan

    plan = make_plan(str(path))
    names = [name for name in plan.shards[0].schema.names if name]
    if is_plain:
        for_polars.CHILD_BYTES = 0
        plan = for_polars.with_columns_for_polars(plan, names, 1 << 31)
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for unit in plan.units:
        for first_row, table in decode_unit(plan, unit, names, 1 << 16):
            check_values(table, plan.locate(first_row))
            for name in names:
                columns[name] += values_of(table.column(name))
    options = {"pre_buffer": False, "page_checksum_verification": True, "coerce_int96_timestamp_unit": "us"}
    with pq.ParquetFile(path, **options) as file:
        for name in names:
            try:
                expected = values_of(file.read(columns=[name]).column(name))
            except Exception as error:
                raise DifferError(f"column {name!r} was read, pyarrow says {type(error).__name__}: {error}") from error
            if expected != columns[name]:
                row = next(
                    (row for row, (a, b) in enumerate(zip(expected, columns[name], strict=False)) if a != b), "the end"
                )
                raise DifferError(f"column {name!r} differs at row {row} of {len(expected)}, got {len(columns[name])}")


def values_of(column: Any) -> list[Any]:
    """The values as text that tells all of them apart, NaN too; raw ones of dates that Python does not have."""
    try:
        return [repr(value) for value in column.to_pylist()]
    except (ValueError, OverflowError):
        return [str(scalar) if not hasattr(scalar, "value") else repr(scalar.value) for scalar in column]


def scored(folder: Path, path: Path) -> None:
    """Compare the number of scores with the number of rows."""
    found = sum(pq.read_metadata(part).num_rows for part in Path(folder).rglob("*.parquet"))
    expected = pq.ParquetFile(path, pre_buffer=False).metadata.num_rows
    if found != expected:
        raise DifferError(f"{found:,} scores for {expected:,} rows")


# ── workers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Worker:
    """A fork of this process that judges one mutant after the other, and is killed beyond its limits."""

    bases: list[Base]
    seed: int
    folder: Path
    place: int
    number: int = -1
    is_dead: bool = False
    _since: float = 0.0
    _pid: int = 0
    results: Any = field(default=None)
    _requests: Any = field(default=None)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        for end in (self.results, self._requests):
            if end is not None:
                end.close()
        request_out, request_in = os.pipe()
        result_out, result_in = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(request_in)
            os.close(result_out)
            self._work(os.fdopen(request_out, "rb"), os.fdopen(result_in, "wb"))
        os.close(request_out)
        os.close(result_in)
        self._requests, self.results, self.is_dead = os.fdopen(request_in, "wb"), os.fdopen(result_out, "rb"), False

    def _work(self, requests: Any, results: Any) -> None:
        """Judge what is asked for until there is no more; never returns."""
        code = 1
        try:
            place = self.folder / f"worker{self.place}"
            place.mkdir(exist_ok=True)
            while line := requests.readline():
                base, _, data = mutant(self.bases, self.seed, int(line))
                pickle.dump(quietly(lambda base=base, data=data: judged(base, data, place)), results)
                results.flush()
            code = 0
        finally:
            os._exit(code)

    def begin(self, number: int | None) -> bool:
        """Ask for a mutant; False where there is none left."""
        if number is None:
            return False
        self.number, self._since = number, time.monotonic()
        self._requests.write(b"%d\n" % number)
        self._requests.flush()
        return True

    def ended(self) -> tuple[str, str] | None:
        """Outcome and problem of the mutant that was asked for; None while it is worked on."""
        with selectors.DefaultSelector() as ready:
            ready.register(self.results, selectors.EVENT_READ)
            if ready.select(0):
                try:
                    outcome: tuple[str, str] = pickle.load(self.results)
                except (EOFError, pickle.UnpicklingError):
                    _, status = os.waitpid(self._pid, 0)
                    self.is_dead = True
                    return "failed", f"the process ended with {os.waitstatus_to_exitcode(status)}"
                return outcome
        taken = resident_bytes(self._pid)
        seconds = time.monotonic() - self._since
        if taken <= MOST_BYTES and seconds <= MOST_SECONDS:
            return None
        os.kill(self._pid, 9)
        os.waitpid(self._pid, 0)
        self.is_dead = True
        return "failed", f"took {taken >> 20:,} MiB" if taken > MOST_BYTES else f"took more than {MOST_SECONDS:.0f} s"

    def close(self) -> None:
        os.kill(self._pid, 9)
        os.waitpid(self._pid, 0)
        self._requests.close()
        self.results.close()


# ── mutation ────────────────────────────────────────────────────────────────────────────────────────────────────────


def mutant(bases: list[Base], seed: int, number: int) -> tuple[Base, str, bytes]:
    """A base, how it was changed, and the bytes: the same for the same seed and number."""
    chance = random.Random(seed * 1_000_003 + number)
    base = bases[number % len(bases)]
    kind = chance.choice(list(MUTATIONS))
    try:
        data = MUTATIONS[kind](base, bytearray(base.data), chance)
    except (ValueError, IndexError):  # the base is too small, or no Parquet file
        kind, data = "bit", flipped(bytearray(base.data), chance, 0, len(base.data))
    return base, kind, bytes(data)


def flipped(data: bytearray, chance: random.Random, start: int, end: int) -> bytearray:
    place = chance.randrange(start, max(start + 1, end))
    if place < len(data):
        data[place] ^= 1 << chance.randrange(8)
    return data


def one_bit(_: Base, data: bytearray, chance: random.Random) -> bytearray:
    return flipped(data, chance, 0, len(data))


def some_bits(_: Base, data: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.randrange(2, 12)):
        data = flipped(data, chance, 0, len(data))
    return data


def footer_bits(_: Base, data: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.randrange(1, 4)):
        data = flipped(data, chance, footer_start(data), len(data) - 8)
    return data


def header_bits(base: Base, data: bytearray, chance: random.Random) -> bytearray:
    start = chance.choice(base.pages)
    return flipped(data, chance, start, start + 24)


def cut_off(_: Base, data: bytearray, chance: random.Random) -> bytearray:
    return data[: chance.randrange(len(data))]


def taken_out(_: Base, data: bytearray, chance: random.Random) -> bytearray:
    start = chance.randrange(len(data))
    del data[start : start + chance.choice((1, 2, 8, 64, 500))]
    return data


def doubled(_: Base, data: bytearray, chance: random.Random) -> bytearray:
    start, size = chance.randrange(len(data)), chance.choice((1, 4, 32, 300))
    data[start:start] = data[start : start + size]
    return data


def random_bytes(_: Base, data: bytearray, chance: random.Random) -> bytearray:
    start, size = chance.randrange(len(data)), chance.choice((1, 4, 32, 300))
    data[start : start + size] = chance.randbytes(len(data[start : start + size]))
    return data


def footer_number(_: Base, data: bytearray, chance: random.Random) -> bytearray:
    """One or two integers of the footer replaced, its length put right."""
    start = footer_start(data)
    footer = data[start:-8]
    for _ in range(chance.choice((1, 1, 1, 2))):
        footer = with_varint(footer, chance.choice(list(integers(footer, 0))), chance)
    return data[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def header_number(base: Base, data: bytearray, chance: random.Random) -> bytearray:
    """An integer of a page header replaced by one as long, or longer, so that what follows moves."""
    start = chance.choice(base.pages)
    places = list(integers(data, start))
    return with_varint(data, chance.choice(places), chance, keeps_length=chance.random() < 0.7)


def footer_length(_: Base, data: bytearray, chance: random.Random) -> bytearray:
    data[-8:-4] = chance.choice((0, 1, 7, len(data), 2**31, 2**32 - 1, chance.randrange(2**16))).to_bytes(4, "little")
    return data


MUTATIONS: dict[str, Callable[[Base, bytearray, random.Random], bytearray]] = {
    "bit": one_bit, "bits": some_bits, "footer bits": footer_bits, "header bits": header_bits, "cut off": cut_off,
    "taken out": taken_out, "doubled": doubled, "random bytes": random_bytes, "footer number": footer_number,
    "another footer number": footer_number, "header number": header_number, "another header number": header_number,
    "footer length": footer_length,
}  # fmt: skip


def footer_start(data: bytearray) -> int:
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    if not 0 < start < len(data) - 8:
        raise ValueError("no footer")
    return start


def page_starts(data: bytes) -> tuple[int, ...]:
    """Where the first pages of the column chunks begin."""
    metadata = pq.read_metadata(pa.BufferReader(data))
    chunks = [
        metadata.row_group(group).column(column)
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    ]
    places = {place for chunk in chunks for place in (chunk.dictionary_page_offset, chunk.data_page_offset)}
    return tuple(sorted(place for place in places if place is not None and 0 < place < len(data)))


def with_varint(
    data: bytearray, place: tuple[int, int], chance: random.Random, *, keeps_length: bool = False
) -> bytearray:
    """The data with the varint between two places replaced by another."""
    start, end = place
    value = unzigzag(varint(data, start)[0])
    new = chance.choice((*NUMBERS, value + 1, value - 1, value * 2, value * 1000, -value, chance.getrandbits(31)))
    encoded = encoded_varint(zigzag(max(-(2**63), min(2**63 - 1, new))))
    if keeps_length:
        encoded = padded(encoded, end - start)
    data[start:end] = encoded
    return data


def padded(encoded: bytes, length: int) -> bytes:
    """A varint of so many bytes: cut, or with zeros at its end."""
    if len(encoded) >= length:
        return bytes([*(byte | 128 for byte in encoded[: length - 1]), encoded[length - 1] & 127])
    return bytes([*(byte | 128 for byte in encoded), *([128] * (length - len(encoded) - 1)), 0])


def zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def unzigzag(value: int) -> int:
    return value >> 1 if value % 2 == 0 else -((value + 1) >> 1)


def encoded_varint(value: int) -> bytes:
    result = bytearray()
    while value >= 128:
        result.append(value & 127 | 128)
        value >>= 7
    return bytes([*result, value])


def varint(data: bytearray, place: int) -> tuple[int, int]:
    """Value and end of a varint."""
    value, shift = 0, 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def integers(data: bytearray, start: int) -> Iterator[tuple[int, int]]:
    """Start and end of every integer of a structure in Thrift's compact protocol."""
    found: list[tuple[int, int]] = []
    _skip(data, start, 12, found)
    yield from found


def _skip(data: bytearray, place: int, kind: int, found: list[tuple[int, int]]) -> int:
    """The end of a value of a kind; its integers are added to `found`."""
    if kind in (1, 2):
        return place
    if kind == 3:
        return place + 1
    if kind in (4, 5, 6):
        end = varint(data, place)[1]
        found.append((place, end))
        return end
    if kind == 7:
        return place + 8
    if kind == 8:
        size, place = varint(data, place)
        return place + size
    if kind in (9, 10):
        size, inner = data[place] >> 4, data[place] & 15
        place += 1
        if size == 15:
            size, place = varint(data, place)
        for _ in range(size):
            place = place + 1 if inner in (1, 2) else _skip(data, place, inner, found)
        return place
    if kind != 12:
        raise ValueError("a type that Parquet does not use")
    while data[place]:
        inner, delta = data[place] & 15, data[place] >> 4
        place = place + 1 if delta else varint(data, place + 1)[1]
        place = _skip(data, place, inner, found)
    return place + 1


if __name__ == "__main__":
    sys.exit(main())
