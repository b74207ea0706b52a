"""Lists of the best labels of a row, as `predict --top` writes them, and what thresholds decide on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlclf.data.arrow.arrays import one_array
from mlclf.data.arrow.lists import list_parts
from mlclf.decisions.score_files.columns import Place
from mlclf.errors import DataError

TOP_LABELS, TOP_SCORES, DECIDED = "top_labels", "top_scores", "decided_labels"


def decided_lists(scores: NDArray[np.float32], decisions: NDArray[np.bool_], label_names: Sequence[str]) -> pa.Array:
    """The labels decided on, by falling score, ties in label order: lists of text of scores and decisions [n, K]."""
    rows, labels = np.nonzero(decisions)
    order = np.lexsort((labels, -scores[rows, labels].astype(np.float64), rows))
    return _named_lists(rows, labels[order], len(decisions), label_names)


def decide_on_best(
    table: pa.Table, cuts: NDArray[np.float32], label_names: Sequence[str], per_row: int | None, place: Place
) -> pa.Array:
    """The labels decided on, of rows that list their best labels with falling scores: lists of text.

    A label that is not listed has at most the last score that is. Where its threshold is above that it is not decided
    on; where it is not, nobody knows.

    Args:
        table: columns `top_labels` and `top_scores`.
        cuts: [K] float32, NaN = never positive.
        label_names: [K], of the cuts.
        per_row: labels of a row that are decided on at most; None = no limit.
        place: where the rows come from.

    Raises:
        DataError: the two lists of a row do not go together, a label has no threshold, or one that is not listed may
            reach its own; names the row.
    """
    lengths, labels, scores = _lists(table, label_names, place)
    starts = np.cumsum(lengths) - lengths
    rows = np.repeat(np.arange(len(lengths)), lengths)
    decided = scores >= cuts[labels]
    if per_row is not None:
        decided &= np.arange(len(labels)) - starts[rows] < per_row
    last = np.full(len(lengths), np.inf, np.float32)  # of a row that lists nothing, any score may be reached
    last[lengths > 0] = scores[(starts + lengths - 1)[lengths > 0]]
    reachable = np.searchsorted(np.sort(cuts[~np.isnan(cuts)]), last, side="right")
    listed = np.bincount(rows[cuts[labels] <= last[rows]], minlength=len(lengths))
    open_rows = reachable > listed
    if per_row is not None:
        open_rows &= lengths < per_row
    if open_rows.any():
        row = int(np.flatnonzero(open_rows)[0])
        own = set(labels[starts[row] : starts[row] + lengths[row]].tolist())
        missing = next(index for index, cut in enumerate(cuts) if cut <= last[row] and index not in own)
        raise DataError(
            f"{place.row(row)}: {TOP_SCORES!r} lists {int(lengths[row]):,} of {len(label_names):,} labels, the last "
            f"with {float(last[row]):.4g}, and label {label_names[missing]!r:.60}, which is not listed, may reach its "
            f"threshold of {float(cuts[missing]):.4g}; predict again with --top {len(label_names)}, which lists all"
        )
    return _named_lists(rows[decided], labels[decided], len(lengths), label_names)


def _named_lists(
    rows: NDArray[np.int64], labels: NDArray[np.int64], num_rows: int, label_names: Sequence[str]
) -> pa.Array:
    """A list of names for each row, of indices of labels by row."""
    ends = np.cumsum(np.bincount(rows, minlength=num_rows))
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(label_names, pa.string()).take(pa.array(labels)))


def _lists(
    table: pa.Table, label_names: Sequence[str], place: Place
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Labels of each row [n], and index of the label and score of all that are listed."""
    offsets, names = list_parts(one_array(table.column(TOP_LABELS)))
    score_offsets, values = list_parts(one_array(table.column(TOP_SCORES)))
    lengths = np.diff(offsets).astype(np.int64)
    uneven = lengths != np.diff(score_offsets)
    if uneven.any():
        row = int(np.flatnonzero(uneven)[0])
        raise DataError(f"{place.row(row)}: {TOP_LABELS!r} and {TOP_SCORES!r} must have lists of one length")
    places = pc.index_in(names.cast(pa.string()), pa.array(label_names, pa.string()))
    if places.null_count:
        unknown = names[int(np.flatnonzero(np.asarray(places.is_null()))[0])].as_py()
        raise DataError(f"{place}: label {unknown!r:.60} has no threshold; give the thresholds of these labels")
    scores = np.asarray(values.to_numpy(zero_copy_only=False), np.float32)
    within = np.repeat(np.arange(len(lengths)), lengths)
    wrong = np.isnan(scores)
    wrong[1:] |= (scores[1:] > scores[:-1]) & (within[1:] == within[:-1])
    if wrong.any():
        row = int(within[np.flatnonzero(wrong)[0]])
        raise DataError(f"{place.row(row)}: {TOP_SCORES!r} must hold falling numbers, as predict writes them")
    return lengths, places.to_numpy(zero_copy_only=False).astype(np.int64), scores
