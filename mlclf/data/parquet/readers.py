"""Readers: threads that decode spans ahead of their use. What comes out does not depend on how many there are."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from threading import Lock
from typing import Generic, TypeVar

import pyarrow as pa

from mlclf.data.parquet.content import Contents
from mlclf.data.parquet.decoding import check_values, decode_unit
from mlclf.data.parquet.plan import Plan, Unit
from mlclf.data.parquet.spans import SPAN_ROWS, Span, interleaved
from mlclf.errors import DataError
from mlclf.machine.signals import look
from mlclf.machine.threads import hand_on_threads, keep_threads, step_back

ALIKE = 1.25
"""Units whose rows are larger than those of the others by no more are read in pieces of as many rows."""

T = TypeVar("T")
Work = Callable[[int, pa.Table, str], T]
"""What is done with the rows of a table: (number of the first row, table, place) → result."""


class Readers(Generic[T]):
    """Decodes spans on threads and applies a function to the table of each.

    Spans of one unit have to be submitted in the order of their rows. At most `lanes` units stay open.
    """

    def __init__(
        self,
        plan: Plan,
        columns: Sequence[str],
        rows_of: Callable[[Unit], int],
        *,
        lanes: int,
        threads: int,
        contents: Contents | None = None,
    ) -> None:
        """`rows_of` gives the rows of the spans that a unit is cut into; `contents` takes the digest of each unit."""
        self._contents = contents
        self._plan, self._columns, self._rows_of, self._lanes = plan, columns, rows_of, lanes
        keep_threads()
        self._threads = ThreadPoolExecutor(
            max(1, min(threads, lanes)), thread_name_prefix="decode", initializer=step_back
        )
        self._open: OrderedDict[int, Iterator[tuple[int, pa.Table]]] = OrderedDict()
        self._lock = Lock()
        self._last: dict[int, Future[T]] = {}

    def submit(self, span: Span, work: Work[T]) -> Future[T]:
        """Start decoding a span; the result is that of work(first row, table, place)."""
        before = self._last.get(span.unit)
        future = self._threads.submit(self._read, span, before, work)
        self._last[span.unit] = future
        if len(self._last) > 2 * self._lanes:
            self._last = {unit: last for unit, last in self._last.items() if not last.done()} | {span.unit: future}
        return future

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Do something else on the threads."""
        return self._threads.submit(work)

    def _read(self, span: Span, before: Future[T] | None, work: Work[T]) -> T:
        if before is not None:
            wait([before])  # it was submitted earlier, so it has started
        return located(self._plan, span.first_row, self._table(span), work)

    def _table(self, span: Span) -> pa.Table:
        unit = self._plan.units[span.unit]
        with self._lock:
            tables = self._open.pop(span.unit, None)
        if tables is None:
            tables = decode_unit(self._plan, unit, self._columns, self._rows_of(unit))
        table = next(table for first_row, table in tables if first_row == span.first_row)
        if span.first_row + span.rows < unit.first_row + unit.rows:
            self._keep(span.unit, tables)
        else:
            next(tables, None)  # lets the unit close, and be checked against its footer
            if self._contents is not None:
                self._contents.add(span.unit)  # its chunks have been read, so that they can be described
        return table

    def _keep(self, unit: int, tables: Iterator[tuple[int, pa.Table]]) -> None:
        with self._lock:
            self._open[unit] = tables
            if len(self._open) > self._lanes:
                self._open.popitem(last=False)  # should it be needed again, it is read from its start

    def close(self) -> None:
        """Stop; what has not started is given up."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        hand_on_threads()
        self._open.clear()


def decoded_pieces(
    plan: Plan,
    order: Sequence[int],
    columns: Sequence[str],
    piece_rows: int,
    work: Work[T],
    *,
    lanes: int = 2,
    threads: int = 2,
    contents: Contents | None = None,
) -> Iterator[T]:
    """Yield work(first row, table, place) of every piece of the units of `order`, always in the same order.

    A piece has at most `piece_rows` rows, fewer in a unit whose rows are larger than those of the others.
    """

    def rows_of(unit: Unit) -> int:
        larger = unit.row_bytes / max(1.0, plan.row_bytes)
        rows = piece_rows if larger <= ALIKE else piece_rows / larger
        return max(1, int(rows) // SPAN_ROWS) * SPAN_ROWS

    readers: Readers[T] = Readers(plan, columns, rows_of, lanes=lanes, threads=threads, contents=contents)
    spans = interleaved(plan, order, lanes, rows_of)
    try:
        waiting = deque(readers.submit(span, work) for span in islice(spans, lanes))
        while waiting:
            look()
            result = waiting.popleft().result()
            waiting.extend(readers.submit(span, work) for span in islice(spans, 1))
            yield result
    finally:
        readers.close()


def located(plan: Plan, first_row: int, table: pa.Table, work: Work[T]) -> T:
    """work(first row, table, place); if it refuses the table, the error names the one row group at fault.

    Raises:
        DataError: `work` refuses the rows, or cannot do them because a column is damaged inside.
    """
    groups = plan.groups_of(first_row, table.num_rows)
    place = plan.place_of(groups)
    try:
        return work(first_row, table, place)
    except (DataError, pa.ArrowException, UnicodeDecodeError) as error:
        if len(groups) > 1:
            for group in groups:
                begin = max(group.first_row, first_row)
                rows = table.slice(begin - first_row, group.first_row + group.rows - begin)
                located(plan, begin, rows, work)
        if not isinstance(error, DataError):
            check_values(table, place)
        raise
