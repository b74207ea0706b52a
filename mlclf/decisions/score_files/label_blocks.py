"""Score files a block of labels at a time, from several threads: little memory however many labels there are.

A column of Parquet can be read alone, so each byte is still read once. Many rows of few labels at a time also keep what
is counted of a label in the processor's cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import pyarrow.parquet as pq
import torch

from mlclf.data.parquet.decoding import decode_unit
from mlclf.data.parquet.plan import Plan, Unit
from mlclf.data.parquet.readers import located
from mlclf.decisions.cells.cells import Cells
from mlclf.decisions.histograms.counting import MOST_ROWS
from mlclf.decisions.score_files.columns import CellColumns
from mlclf.decisions.score_files.label_join import placed
from mlclf.decisions.score_files.label_rows import COLUMNS, LabelReader
from mlclf.decisions.score_files.reading import ScoreFiles
from mlclf.machine.memory import Recycler
from mlclf.machine.threads import use_one_thread

BLOCK_LABELS = 64
LEAST_LABELS = 2 * BLOCK_LABELS
"""With fewer labels there is no need, and little for a second thread to do."""

STRETCH_ROWS = 65_536
MAX_THREADS = 8

Take = Callable[[Cells, slice], None]
"""What is done with the cells of a slice of the labels; called from several threads, never twice at once for one."""


def in_label_blocks(files: ScoreFiles) -> bool:
    """Whether files can be read so: every label has columns of its own, and nothing else is known of the rows."""
    others = (files.joined, files.label_weights, files.identity, files.carry, files.beside.weight, files.beside.group)
    return (
        not files.scores.is_list
        and files.beside.style == COLUMNS
        and all(other is None for other in others)
        and len(files.label_names) >= LEAST_LABELS
        and files.plan.rows <= MOST_ROWS
    )


def label_blocks(files: ScoreFiles, take: Take) -> Iterator[int]:
    """Hand all cells to `take`, on as many threads as torch has; yield how many rows are through for all labels.

    Raises:
        DataError: the first that reading or `take` raises, in the order of rows and labels.
    """
    line = _Line(files, take)
    done, through = 0, [0] * len(line.plan.units)
    with ThreadPoolExecutor(line.threads, initializer=use_one_thread) as pool:
        try:
            for worker in [pool.submit(line.work) for _ in range(line.threads)]:
                worker.add_done_callback(lambda _: line.reports.put(None))
            working = line.threads
            while working:
                unit = line.reports.get()
                if unit is None:
                    working -= 1
                    continue
                through[unit] += 1
                if through[unit] == len(line.blocks):
                    done += line.plan.units[unit].rows
                    yield done
        finally:
            line.stopped = True
    if line.errors:
        raise min(line.errors, key=lambda error: error[:2])[2]


class _Line:
    """Blocks of labels that wait for their next stretch of rows, first come, first served."""

    def __init__(self, files: ScoreFiles, take: Take) -> None:
        self.plan, self.take = _in_stretches(files.plan), take
        starts = range(0, len(files.label_names), BLOCK_LABELS)
        self.blocks = [slice(start, min(start + BLOCK_LABELS, len(files.label_names))) for start in starts]
        scores, codes = Recycler(), Recycler()
        self.parts = [_part(files, block, scores, codes) for block in self.blocks]
        self.threads = max(1, min(MAX_THREADS, len(self.blocks), torch.get_num_threads()))
        self.waiting = deque((0, block) for block in range(len(self.blocks)))
        self.reports: SimpleQueue[int | None] = SimpleQueue()
        self.errors: list[tuple[int, int, BaseException]] = []
        self.stopped = False

    def work(self) -> None:
        """Take blocks until there are none; after one at fault only those before it, which a slow thread may hold."""
        with _OpenShard(self.plan) as shard:
            while self.waiting and not self.stopped:
                try:
                    unit, block = self.waiting.popleft()
                except IndexError:  # another thread was faster
                    return
                if any((unit, block) > error[:2] for error in self.errors):
                    continue
                try:
                    self._read(unit, block, shard)
                except BaseException as error:
                    self.errors.append((unit, block, error))
                    continue
                if unit + 1 < len(self.plan.units):
                    self.waiting.append((unit + 1, block))
                self.reports.put(unit)

    def _read(self, unit: int, block: int, shard: _OpenShard) -> None:
        part, labels = self.parts[block], self.blocks[block]

        def work(table: Any, place: Any, first_row: int) -> None:
            self.take(part.read(table, place, first_row)[1].cells, labels)

        columns = list(dict.fromkeys([*part.scores.names, *part.beside.columns]))
        whole = self.plan.units[unit]
        for first_row, table in decode_unit(self.plan, whole, columns, STRETCH_ROWS, shard.opened(whole.shard)):
            located(self.plan, first_row, table, placed(self.plan, work))


class _OpenShard:
    """The file that a thread reads, kept open from block to block, since a footer of many columns takes long."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._index = -1
        self._file: pq.ParquetFile | None = None

    def opened(self, index: int) -> pq.ParquetFile | None:
        """The open file of a shard; None where it has to be opened for each unit, or cannot be."""
        shard = self._plan.shards[index]
        if shard.source.is_remote:
            return None
        if self._file is None or self._index != index:
            self.__exit__()
            try:
                self._file, self._index = shard.open(), index
            except Exception:  # whoever reads it says what is wrong
                return None
        return self._file

    def __enter__(self) -> _OpenShard:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _part(files: ScoreFiles, block: slice, scores: Recycler, codes: Recycler) -> ScoreFiles:
    names, columns = files.label_names[block], CellColumns(files.scores.names[block], block.stop - block.start)
    reader = LabelReader(names, COLUMNS, files.beside.label_columns[block], _memory=codes)
    return ScoreFiles(files.plan, files.kind, names, columns, reader, memory=scores)


def _in_stretches(plan: Plan) -> Plan:
    """The same rows in units of up to STRETCH_ROWS, where row groups are no larger."""
    units: list[Unit] = []
    for unit in plan.units:
        last = units[-1] if units else None
        if last is None or not _follows(last, unit):
            units.append(unit)
            continue
        row_bytes = max(last.row_bytes, unit.row_bytes)
        units[-1] = Unit(
            last.shard, (*last.groups, *unit.groups), last.rows + unit.rows, last.first_row, row_bytes=row_bytes
        )
    return replace(plan, units=tuple(units))


def _follows(last: Unit, unit: Unit) -> bool:
    is_next = last.shard == unit.shard and last.first_row + last.rows == unit.first_row
    return is_next and last.rows + unit.rows <= STRETCH_ROWS
