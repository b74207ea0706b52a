"""The order of an epoch: which rows of which slabs make each batch. A pure function of (plan, seed, epoch, pool)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mlclf.data.parquet.spans import Span, share_evenly


class Load(NamedTuple):
    """A slab is loaded into a slot of the pool."""

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


class BatchDraws:
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
        share_evenly([left - count for left, count in zip(self._left, counts, strict=True)], rows - sum(counts), counts)
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
