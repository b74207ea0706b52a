"""Spans: pieces of units, the rows that one slab holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from mlclf.data.parquet.plan import Plan, Unit

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


def spans_of(index: int, unit: Unit, rows: int) -> list[Span]:
    """A unit cut into spans of `rows` rows, the last one shorter."""
    starts = range(0, unit.rows, rows)
    return [Span(index, unit.first_row + start, min(rows, unit.rows - start)) for start in starts]


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


def share_evenly(left: Sequence[int], rows: int, counts: list[int]) -> None:
    """Add `rows` to `counts` in equal parts, none more than its `left`; what one cannot give, the others do.

    >>> counts = [0, 0, 0]
    >>> share_evenly([1, 10, 10], 8, counts)
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
