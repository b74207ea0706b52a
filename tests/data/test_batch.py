from __future__ import annotations

import numpy as np

from mlclf.data.features.token_ids import TokenIds, joined_ids, joined_ranges


def test_columns_are_joined_row_by_row() -> None:
    one = TokenIds(None, np.array([1, 2, 3]))
    many = TokenIds(np.array([2, 0, 1]), np.array([10, 11, 12]))
    weighted = TokenIds(np.array([0, 1, 1]), np.array([20, 21]), np.array([0.5, 0.25], np.float32))
    both = joined_ids([one, many], 3)
    assert both.lengths is not None
    assert (both.lengths.tolist(), both.ids.tolist(), both.values) == ([3, 1, 2], [1, 10, 11, 2, 3, 12], None)
    every = joined_ids([one, many, weighted], 3)
    assert every.values is not None
    assert every.ids.tolist() == [1, 10, 11, 2, 20, 3, 12, 21]
    assert every.values.tolist() == [1, 1, 1, 1, 0.5, 1, 1, 0.25]
    pairs = joined_ids([one, TokenIds(None, np.array([7, 8, 9]))], 3)
    assert pairs.ids.tolist() == [1, 7, 2, 8, 3, 9]
    assert joined_ids([one], 3).ids.tolist() == [1, 2, 3]
    none = joined_ids([], 2)
    assert none.lengths is not None
    assert (none.lengths.tolist(), none.ids.tolist()) == ([0, 0], [])


def test_joined_ranges() -> None:
    assert joined_ranges(np.array([5, 9, 0]), np.array([2, 0, 3])).tolist() == [5, 6, 0, 1, 2]
    assert joined_ranges(np.array([], np.int64), np.array([], np.int64)).tolist() == []
