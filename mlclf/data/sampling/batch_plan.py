"""The order of an epoch: which rows of which slabs make each batch. A pure function of (plan, seed, epoch, pool)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlclf.data.parquet.planning import Plan, Unit

SPAN_ROWS = 64
"""Units are cut at multiples of it, so that counts kept for blocks of so many rows tell what a span holds."""


class Span(NamedTuple):
    """Consecutive rows of one unit: what one slab holds.

    Attributes:
        unit: index of the unit in the plan.
        first_row: number of the first row in the plan.
        rows: number of rows, before any are left out.
    """

    unit: int
    first_row: int
    rows: int


class Load(NamedTuple):
    """A slab enters a slot of the pool."""

    slot: int
    slab: int
    span: Span


class Draw(NamedTuple):
    """Rows `start` to `stop` of a slab's own order go into a batch; `last` when none are left after it."""

    slot: int
    slab: int
    start: int
    stop: int
    last: bool


@dataclass(frozen=True)
class Round:
    """Slabs that enter the pool, and the rows then drawn from it. Nearly every batch is one round."""

    loads: tuple[Load, ...]
    draws: tuple[Draw, ...]


def spans_of(index: int, unit: Unit, rows: int) -> list[Span]:
    """A unit cut into spans of `rows` rows, the last one shorter."""
    starts = range(0, unit.rows, rows)
    return [Span(index, unit.first_row + start, min(rows, unit.rows - start)) for start in starts]


def random_stream(seed: int, epoch: int, stream: int) -> np.random.Generator:
    """Counter-based random numbers of their own for (seed, epoch, stream)."""
    key = np.random.SeedSequence([seed, epoch, stream]).generate_state(2, np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def unit_order(plan: Plan, seed: int, epoch: int, shuffle: bool) -> Sequence[int]:
    """Units in the order of an epoch; in that of the plan where nothing is shuffled."""
    count = len(plan.units)
    return random_stream(seed, epoch, 0).permutation(count).tolist() if shuffle else range(count)


def row_order(rows: NDArray[np.int64], seed: int, epoch: int, first_row: int) -> NDArray[np.int64]:
    """The rows of a slab, [m] int64, in the order in which they are drawn; `first_row` is that of its span."""
    return random_stream(seed, epoch, 1 + first_row).permutation(rows)


def interleaved(plan: Plan, order: Iterable[int], lanes: int, rows_of: Callable[[Unit], int]) -> Iterator[Span]:
    """Spans of the units of `order`, dealt from `lanes` units at a time, one span of each in turn.

    A unit that fits one slab is one span, so that the spans follow `order`; at most `lanes` larger units are open.
    """
    units = iter(order)
    lanes_open: list[deque[Span]] = []
    while True:
        for index in islice(units, lanes - len(lanes_open)):
            lanes_open.append(deque(spans_of(index, plan.units[index], rows_of(plan.units[index]))))
        if not lanes_open:
            return
        for spans in lanes_open:
            yield spans.popleft()
        lanes_open = [spans for spans in lanes_open if spans]


class Schedule:
    """The batches of an epoch as rounds of loads and draws.

    Every slab in the pool gives an equal share of each batch, all it has left if that is less. The first slabs are
    drawn unequally until one of them is used up, so that from then on they end one after the other and decoding is
    spread over the epoch.
    """

    def __init__(self, spans: Iterable[Span], count: Callable[[Span], int], slots: int, batch_rows: int) -> None:
        """`count` says how many rows of a span are drawn; spans without any never enter the pool."""
        self._spans = ((span, rows) for span in spans if (rows := count(span)))
        self._batch_rows = batch_rows
        self._slab = [-1] * slots
        self._drawn = [0] * slots
        self._left = [0] * slots
        self._loaded = 0
        self._opening = True

    def __iter__(self) -> Iterator[list[Round]]:
        while batch := self._batch():
            yield batch

    def _batch(self) -> list[Round]:
        rounds: list[Round] = []
        missing = self._batch_rows
        while missing:
            loads = self._fill()
            counts = self._shares(missing)
            if not any(counts):
                break
            rounds.append(Round(loads, self._draws(counts)))
            missing -= sum(counts)
        return rounds

    def _fill(self) -> tuple[Load, ...]:
        loads = []
        for slot, left in enumerate(self._left):
            if left:
                continue
            found = next(self._spans, None)
            if found is None:
                break
            span, rows = found
            self._slab[slot], self._drawn[slot], self._left[slot] = self._loaded, 0, rows
            loads.append(Load(slot, self._loaded, span))
            self._loaded += 1
        return tuple(loads)

    def _shares(self, rows: int) -> list[int]:
        """Rows that each slot gives."""
        if self._opening:
            total = len(self._left) * (len(self._left) + 1) // 2
            counts = [min(left, rows * (slot + 1) // total) for slot, left in enumerate(self._left)]
        else:
            counts = [0] * len(self._left)
        level([left - count for left, count in zip(self._left, counts, strict=True)], rows - sum(counts), counts)
        return counts

    def _draws(self, counts: Sequence[int]) -> tuple[Draw, ...]:
        draws = []
        for slot, count in enumerate(counts):
            if count:
                start = self._drawn[slot]
                self._drawn[slot] += count
                self._left[slot] -= count
                last = not self._left[slot]
                self._opening = self._opening and not last
                draws.append(Draw(slot, self._slab[slot], start, start + count, last))
        return tuple(draws)


def level(left: Sequence[int], rows: int, counts: list[int]) -> None:
    """Add `rows` to `counts` in equal parts, none more than its `left`; what one cannot give, the others do.

    >>> counts = [0, 0, 0]
    >>> level([1, 10, 10], 8, counts)
    >>> counts
    [1, 4, 3]
    """
    by_left = sorted(zip(left, range(len(left)), strict=True))
    rows = min(rows, sum(left))
    for position, (most, index) in enumerate(by_left):
        share, spare = divmod(rows, len(by_left) - position)
        if share >= most:
            counts[index] += most
            rows -= most
        else:  # all that are left can give as much
            for slot in sorted(index for _, index in by_left[position:]):
                counts[slot] += share + (spare > 0)
                spare -= spare > 0
            return
