"""Iterative stratification: rows → parts in which each label has its share, a window of rows at a time.

Sechidis, Tsoumakas and Vlahavas, On the Stratification of Multi-Label Data, ECML PKDD 2011: the rarest label first,
its rows to the parts that still want most of it. Here the rarest is that of the window, and what a part wants is its
share of the rows seen so far less what it has, so that no pass needs to count the labels first and the parts have
their shares of any stretch of the data, not only of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

import numpy as np
from numpy.typing import NDArray


class Stratifier:
    """Assigns windows of rows to parts, one after the other; it keeps one number for each part and label.

    Args:
        fractions: [P], positive, of sum 1.
        seed: decides which rows of a label go where, unless the order of the rows is given.
    """

    def __init__(self, fractions: NDArray[np.float64], seed: int) -> None:
        self._fractions = fractions
        self._random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed])))
        self._wanted = np.zeros((0, len(fractions)))
        self._rows_wanted = np.zeros(len(fractions))

    def parts(
        self,
        rows: NDArray[np.int64],
        labels: NDArray[np.int64],
        num_rows: int,
        order: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int8]:
        """Part of each row of a window: [num_rows] int8.

        Args:
            rows, labels: [n], a pair for each positive cell: row in the window, label.
            num_rows: rows of the window.
            order: [num_rows], the rows in the order in which they are dealt out; None for one at random.
        """
        if order is None:
            order = self._random.permutation(num_rows)
        rows = np.argsort(order)[rows]  # a row's number in the order breaks all ties
        num_labels = max(len(self._wanted), int(labels.max(initial=-1)) + 1)
        self._wanted = np.concatenate([self._wanted, np.zeros((num_labels - len(self._wanted), len(self._fractions)))])
        left = np.bincount(labels, minlength=num_labels)
        self._wanted += left[:, None] * self._fractions
        self._rows_wanted += num_rows * self._fractions
        by_row, by_label = np.lexsort((labels, rows)), np.lexsort((rows, labels))
        labels_of, rows_of = labels[by_row], rows[by_label]
        row_ends = np.cumsum(np.bincount(rows, minlength=num_rows))
        label_ends = np.cumsum(left)
        counts = np.diff(row_ends, prepend=0)
        parts = np.full(num_rows, -1, np.int8)
        rarest = _Rarest(left)
        for label in rarest:
            candidates = rows_of[label_ends[label - 1] if label else 0 : label_ends[label]]
            chosen = np.unique(candidates[parts[candidates] < 0])
            parts[chosen] = self._shared(self._wanted[label], len(chosen))
            sizes = counts[chosen]
            first = np.repeat(row_ends[chosen] - sizes - (np.cumsum(sizes) - sizes), sizes)
            given = labels_of[first + np.arange(sizes.sum())]
            np.subtract.at(self._wanted, (given, np.repeat(parts[chosen], sizes)), 1)
            self._rows_wanted -= np.bincount(parts[chosen], minlength=len(self._fractions))
            rarest.take(given)
        rest = np.flatnonzero(parts < 0)
        parts[rest] = self._shared(self._rows_wanted, len(rest))
        self._rows_wanted -= np.bincount(parts[rest], minlength=len(self._fractions))
        found = np.empty(num_rows, np.int8)
        found[order] = parts
        return found

    def _shared(self, wanted: NDArray[np.float64], count: int) -> NDArray[np.int8]:
        """Parts for so many rows, one after the other to the part that wants most, then most of all rows: [count].

        >>> Stratifier(np.array([0.5, 0.5]), 0)._shared(np.array([2.0, 1.0]), 3).tolist()
        [0, 0, 1]
        """
        steps = np.arange(count)
        wants = np.concatenate([each - steps for each in wanted])
        of_all = np.repeat(self._rows_wanted, count)
        parts = np.repeat(np.arange(len(wanted), dtype=np.int8), count)
        return parts[np.lexsort((-of_all, -wants))[:count]]


class _Rarest:
    """The labels by what is left of them, the least first, then the first; those of which nothing is left are out."""

    def __init__(self, left: NDArray[np.int64]) -> None:
        self._left = left.copy()
        self._heap = [(count, label) for label, count in enumerate(left.tolist()) if count]
        heapify(self._heap)

    def __iter__(self) -> Iterator[int]:
        while self._heap:
            count, label = heappop(self._heap)
            if count == self._left[label]:  # else less is left by now, and it was pushed with that
                yield label

    def take(self, labels: NDArray[np.int64]) -> None:
        """Take cells away, by their labels."""
        touched, counts = np.unique(labels, return_counts=True)
        self._left[touched] -= counts
        for label, count in zip(touched.tolist(), self._left[touched].tolist(), strict=True):
            if count:
                heappush(self._heap, (count, label))
