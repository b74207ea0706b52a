from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from mlclf.data.batch import Batch, Slab, Tokens, gather, join_tokens, joined, spans
from mlclf.data.labels import UNOBSERVED


def slab_of(start: int, rows: int, seed: int, complete: bool, valued: bool = True) -> Slab:
    rng = np.random.default_rng([seed, start])
    lengths = rng.integers(0, 4, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    total = int(offsets[-1])
    return Slab(
        dense=rng.normal(size=(rows + 3, 2)).astype(np.float32),
        ids=rng.integers(0, 99, total),
        offsets=offsets,
        values=rng.random(total).astype(np.float32) if valued else None,
        codes=rng.integers(0, 2 if complete else 3, (rows, 3)).astype(np.uint8),
        weights=rng.random(rows).astype(np.float32),
        parts=rng.integers(0, 3, rows).astype(np.int8),
        numbers=np.arange(start, start + rows),
        order=rng.permutation(rows),
        place="",
        keys=pa.table({"id": np.arange(start, start + rows)}),
    )


def check(batch: Batch, slabs: list[Slab]) -> None:
    for index, number in enumerate(batch.rows.tolist()):
        slab = next(slab for slab in slabs if slab.numbers[0] <= number <= slab.numbers[-1])
        row = number - int(slab.numbers[0])
        assert batch.dense[index].tolist() == slab.dense[row].tolist()
        span = slice(int(batch.offsets[index]), int(batch.offsets[index + 1]))
        source = slice(int(slab.offsets[row]), int(slab.offsets[row + 1]))
        assert batch.ids[span].tolist() == slab.ids[source].tolist()
        if slab.values is not None:
            assert batch.values is not None
            assert batch.values[span].tolist() == slab.values[source].tolist()
        mask = batch.label_mask[index].tolist() if batch.label_mask is not None else [True] * 3
        assert mask == (slab.codes[row] != UNOBSERVED).tolist()
        assert batch.labels[index].tolist() == (slab.codes[row] == 1).astype(int).tolist()
        assert batch.weights[index] == slab.weights[row]
        assert batch.parts[index] == slab.parts[row]
        assert batch.keys is not None
        assert batch.keys["id"][index].as_py() == number


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4), draws=st.lists(st.integers(1, 5), max_size=6),
    seed=st.integers(0, 99), complete=st.lists(st.booleans(), min_size=4, max_size=4), valued=st.booleans(),
)  # fmt: skip
def test_rows_stay_whole(
    sizes: list[int], draws: list[int], seed: int, complete: list[bool], valued: bool
) -> None:  # fmt: skip
    starts = np.cumsum([0, *sizes])
    slabs = [slab_of(int(start), rows, seed, complete[i], valued)
             for i, (start, rows) in enumerate(zip(starts, sizes, strict=False))]  # fmt: skip
    batches = []
    for count in [*draws, 99]:
        picks = [slab.draw(count) for slab in slabs]
        if sum(map(len, picks)):
            batches.append(gather(slabs, picks))
            check(batches[-1], slabs)
    assert not any(slab.left for slab in slabs)
    whole = joined(batches)
    check(whole, slabs)
    assert sorted(whole.rows.tolist()) == list(range(int(starts[-1])))
    assert len(whole) == sum(sizes)
    middle = whole.slice(len(whole) // 3, len(whole))
    check(middle, slabs)
    assert middle.offsets[0] == 0


def test_columns_are_joined_row_by_row() -> None:
    one = Tokens(None, np.array([1, 2, 3]))
    many = Tokens(np.array([2, 0, 1]), np.array([10, 11, 12]))
    weighted = Tokens(np.array([0, 1, 1]), np.array([20, 21]), np.array([0.5, 0.25], np.float32))
    both = join_tokens([one, many], 3)
    assert both.lengths is not None
    assert (both.lengths.tolist(), both.ids.tolist(), both.values) == ([3, 1, 2], [1, 10, 11, 2, 3, 12], None)
    every = join_tokens([one, many, weighted], 3)
    assert every.values is not None
    assert every.ids.tolist() == [1, 10, 11, 2, 20, 3, 12, 21]
    assert every.values.tolist() == [1, 1, 1, 1, 0.5, 1, 1, 0.25]
    pairs = join_tokens([one, Tokens(None, np.array([7, 8, 9]))], 3)
    assert pairs.ids.tolist() == [1, 7, 2, 8, 3, 9]
    assert join_tokens([one], 3).ids.tolist() == [1, 2, 3]
    none = join_tokens([], 2)
    assert none.lengths is not None
    assert (none.lengths.tolist(), none.ids.tolist()) == ([0, 0], [])


def test_spans() -> None:
    assert spans(np.array([5, 9, 0]), np.array([2, 0, 3])).tolist() == [5, 6, 0, 1, 2]
    assert spans(np.array([], np.int64), np.array([], np.int64)).tolist() == []


def test_bytes() -> None:
    batch = gather([slab_of(0, 4, 0, True)], [np.arange(4)])
    tensors = [
        batch.dense,
        batch.ids,
        batch.offsets,
        batch.values,
        batch.labels,
        batch.weights,
        batch.parts,
        batch.rows,
    ]
    assert batch.num_bytes == sum(tensor.nbytes for tensor in tensors if tensor is not None)
