"""LabelHistogram counts what a slow loop counts, however the rows are cut, masked, weighted, merged and written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mlclf.decisions.histograms import bins, counting
from mlclf.decisions.histograms import label_histogram as histograms
from mlclf.decisions.histograms.bins import bins_for
from mlclf.decisions.histograms.derived import joined_bins, pooled_labels, scaled_weights, without_rows
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.histograms.tables import histogram_of, table_of
from mlclf.errors import DataError, RunError

SUMS = ("counts", "least", "greatest", "positive_rows", "rows", "weighted_squares", "weighted_rows")
STATES = (*SUMS, "least_weight", "greatest_weight")


def batch(seed: int, rows: int, labels: int) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 4, rows) / 4  # quarters: their sums are exact in any order
    return {
        "logits": torch.tensor(rng.normal(-3, 3, (rows, labels)).round(1), dtype=torch.float32),
        "labels": torch.tensor(rng.random((rows, labels)) < 0.3),
        "mask": torch.tensor(rng.random((rows, labels)) < 0.8),
        "weights": torch.tensor(weights, dtype=torch.float32),
    }


def assert_same(got: LabelHistogram, want: LabelHistogram) -> None:
    assert set(got.metric_state) == set(want.metric_state)
    for name in want.metric_state:
        torch.testing.assert_close(getattr(got, name), getattr(want, name), rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    ("labels", "bins"), [(1, 65_536), (1000, 65_536), (1001, 32_768), (10_000, 4096), (50_000, 1024), (1_000_000, 256)]
)
def test_bins_for_fits_the_budget(labels: int, bins: int) -> None:
    assert bins_for(labels) == bins
    assert LabelHistogram(2, None).num_bins == 65_536


def test_bins_for_takes_a_budget() -> None:
    assert bins_for(1, budget_bytes=16 * 1024) == 1024


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("with_weights", [False, True])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_counts_are_those_of_a_loop(with_mask: bool, with_weights: bool, dtype: torch.dtype) -> None:
    data = batch(0, 150, 3)
    mask, weights = data["mask"] if with_mask else None, data["weights"] if with_weights else None
    histogram = LabelHistogram(3, 256)
    histogram.update(data["logits"], data["labels"].to(dtype), mask, weights)

    counts = np.zeros((2, 3, 256))
    least, greatest = np.full((3, 256), np.inf), np.full((3, 256), -np.inf)
    rows = np.zeros((2, 3), dtype=int)
    for row in range(150):
        weight = 1.0 if weights is None else float(weights[row])
        for label in range(3):
            if weight == 0 or (mask is not None and not mask[row, label]):
                continue
            logit, positive = float(data["logits"][row, label]), int(data["labels"][row, label])
            index = int((logit + 30) * 256 / 60)
            counts[positive, label, index] += weight
            rows[positive, label] += 1
            least[label, index] = min(least[label, index], logit)
            greatest[label, index] = max(greatest[label, index], logit)
    np.testing.assert_array_equal(histogram.positives[:], counts[1])
    np.testing.assert_array_equal(histogram.negatives[:], counts[0])
    np.testing.assert_array_equal(histogram.least, least)
    np.testing.assert_array_equal(histogram.greatest, greatest)
    np.testing.assert_array_equal(histogram.positive_rows, rows[1])
    np.testing.assert_array_equal(histogram.rows, rows.sum(0))
    np.testing.assert_array_equal(histogram.nonempty(), counts.sum(0) > 0)
    assert float(histogram.least_weight) == (0.25 if with_weights else 1)
    assert set(histogram.compute()) == set(STATES)


def test_weights_of_cells_count_cell_by_cell() -> None:
    data = batch(6, 80, 3)
    cells = data["weights"][:, None] * torch.tensor([1.0, 0.0, 0.5])
    cells[::7, 0] = 0
    data["logits"][:, 1] = torch.nan
    whole = LabelHistogram(3, 256)
    whole.update(data["logits"], data["labels"], data["mask"], cells)
    for label in range(3):
        alone, part = LabelHistogram(1, 256), slice(label, label + 1)
        columns = (data[name][:, part] for name in ("logits", "labels", "mask"))
        alone.update(*columns, weights=cells[:, label])
        for name in SUMS:
            torch.testing.assert_close(
                getattr(whole, name)[part], getattr(alone, name), rtol=0, atol=0, check_dtype=False
            )
    assert float(whole.least_weight) == 0.125
    assert float(whole.greatest_weight) == 0.75


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    rows=st.integers(0, 40),
    labels=st.integers(1, 4),
    cut=st.floats(0, 1),
    cells=st.integers(1, 50),
    ones=st.booleans(),
    weighted=st.booleans(),
    turned=st.booleans(),
)
def test_parts_merge_to_the_whole(
    seed: int, rows: int, labels: int, cut: float, cells: int, ones: bool, weighted: bool, turned: bool
) -> None:
    data = batch(seed, rows, labels)
    if ones:
        data["weights"] = (data["weights"] > 0).float()
    if turned:
        data |= {name: data[name].t().contiguous().t() for name in ("logits", "labels", "mask")}
    middle = int(cut * rows)
    whole, head, tail = (LabelHistogram(labels, 256, weighted) for _ in range(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bins, "SLICE_CELLS", cells)
        patch.setattr(counting, "BLOCK_CELLS", max(1, cells // 3))
        patch.setattr(counting, "_PARALLEL_CELLS", 100)
        whole.update(**data)
    head.update(**{name: value[:middle] for name, value in data.items()})
    tail.update(**{name: value[middle:] for name, value in data.items()})
    head.merge(tail)
    assert_same(head, whole)
    assert_same(histogram_of(table_of(whole)), whole)


def test_ranks_sync_to_the_whole() -> None:
    data = batch(1, 100, 3)
    whole, here, there = (LabelHistogram(3, 256) for _ in range(3))
    whole.update(**data)
    here.update(**{name: value[:30] for name, value in data.items()})
    there.update(**{name: value[30:] for name, value in data.items()})
    widths = torch.tensor([int(there.rows.max()), 1])
    others = iter([widths, *(getattr(there, name) for name in here.metric_state)])

    def gather(state: Tensor, group: Any) -> list[Tensor]:
        return [state, next(others)]

    here.sync(dist_sync_fn=gather, distributed_available=lambda: True)
    assert_same(here, whole)


def test_a_rank_without_weights_counts_as_wide_as_the_others() -> None:
    here, there = LabelHistogram(1, 256, weighted=True), LabelHistogram(1, 256, weighted=True)
    here.update(torch.zeros(3, 1), torch.ones(3, 1, dtype=torch.bool))
    there.update(torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.bool), weights=torch.tensor([0.5, 2.0]))
    others = iter([torch.tensor([2, 1]), *(getattr(there, name) for name in there.metric_state)])

    def gather(state: Tensor, group: Any) -> list[Tensor]:
        return [state, next(others)]

    here.sync(dist_sync_fn=gather, distributed_available=lambda: True)
    assert float(here.positives[0].sum()) == 5.5
    assert float(here.positive_squares[0].sum()) == 3 + 0.25 + 4


def test_squares_are_kept_where_they_are_asked_for_and_differ() -> None:
    data = batch(7, 200, 2)
    plain, squared = LabelHistogram(2, 256), LabelHistogram(2, 256, weighted=True)
    for histogram in (plain, squared):
        histogram.update(data["logits"], data["labels"])
        assert "squares" not in histogram.metric_state
        assert histogram.counts.dtype == torch.int32
        np.testing.assert_array_equal(histogram.positive_squares[:], histogram.positives[:])
        histogram.update(**data)
        assert histogram.counts.dtype == torch.float64
    message = "a histogram must be made with weighted=True to have squared weights, got weighted=False"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        _ = plain.negative_squares
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        squared.merge(plain)
    want, once = LabelHistogram(2, 256), LabelHistogram(2, 256)
    want.update(**(data | {"weights": data["weights"] ** 2}))
    once.update(data["logits"], data["labels"])
    want.merge(once)
    np.testing.assert_array_equal(squared.positive_squares[:], want.positives[:])
    np.testing.assert_array_equal(squared.negative_squares[:], want.negatives[:])
    np.testing.assert_array_equal(joined_bins(squared, 64).negative_squares[:], joined_bins(want, 64).negatives[:])
    np.testing.assert_array_equal(pooled_labels(squared).positive_squares[:], pooled_labels(want).positives[:])
    assert_same(histogram_of(table_of(squared)), squared)
    squared.reset()
    assert float(squared.positive_squares[:].sum()) == 0


def test_counts_beyond_int32_are_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histograms, "MOST_ROWS", 150)
    data = batch(8, 100, 2)
    histogram, other = LabelHistogram(2, 256), LabelHistogram(2, 256)
    for counted in (histogram, other):
        counted.update(data["logits"], data["labels"])
        assert counted.counts.dtype == torch.int32
    other.merge(histogram)
    histogram.update(data["logits"], data["labels"])
    assert histogram.counts.dtype == other.counts.dtype == torch.float64
    assert_same(histogram, other)


def test_memory_of_a_thousand_labels_is_a_gigabyte() -> None:
    """A whole process must stay within 1.5 GiB; a small histogram tells what a bin takes."""
    histogram = LabelHistogram(10, bins_for(1000))
    histogram.update(torch.randn(100, 10), torch.randn(100, 10) > 1)
    states = histogram.compute().values()
    assert sum(state.numel() * state.element_size() for state in states) * 100 <= 1.05e9


def test_scaled_and_without_are_those_of_a_loop() -> None:
    data = batch(9, 120, 2)
    parts = [{name: value[rows] for name, value in data.items()} for rows in (slice(0, 50), slice(50, 120))]
    whole, head, tail = (LabelHistogram(2, 256, weighted=True) for _ in range(3))
    whole.update(**data)
    head.update(**parts[0])
    tail.update(**parts[1])
    np.testing.assert_allclose(without_rows(whole, head).positives[:], tail.positives[:], atol=1e-12)
    np.testing.assert_allclose(without_rows(whole, head).negative_squares[:], tail.negative_squares[:], atol=1e-12)
    factors = torch.tensor([[2.0, 3.0], [0.5, 4.0]])
    want = LabelHistogram(2, 256, weighted=True)
    weights = data["weights"][:, None] * torch.where(data["labels"], factors[0], factors[1])
    want.update(data["logits"], data["labels"], data["mask"], weights)
    scaled = scaled_weights(whole, *factors)
    np.testing.assert_allclose(scaled.positives[:], want.positives[:])
    np.testing.assert_allclose(scaled.negative_squares[:], want.negative_squares[:])


def test_padding_and_hidden_cells_count_nowhere() -> None:
    data = batch(2, 50, 2)
    data["weights"] = torch.ones(50)
    want, got = LabelHistogram(2, 256), LabelHistogram(2, 256)
    want.update(**data)
    padded = {name: torch.cat([value, value[:10]]) for name, value in data.items()}
    padded["weights"][50:] = 0
    padded["logits"][50:] = torch.nan
    padded["logits"][~padded["mask"]] = torch.nan
    got.update(**padded)
    assert_same(got, want)


def test_logits_beyond_the_range_fall_into_the_end_bins() -> None:
    histogram = LabelHistogram(1, 256)
    histogram.update(torch.tensor([[-1000.0], [1000.0], [-30.0], [3e38]]), torch.tensor([[0], [1], [0], [0]]))
    assert histogram.nonempty()[0].nonzero()[:, 0].tolist() == [0, 255]
    assert histogram.least[0, [0, 255]].tolist() == [-1000.0, 1000.0]
    assert histogram.greatest[0, 0] == -30.0
    assert histogram.positives[0, 255] == 1
    assert histogram.negatives[0, [0, 255]].tolist() == [2, 1]


def test_reset_empties() -> None:
    histogram = LabelHistogram(3, 256)
    histogram.update(**batch(3, 20, 3))
    histogram.reset()
    assert_same(histogram, LabelHistogram(3, 256))


def test_pooled_holds_the_cells_of_all_labels() -> None:
    data = batch(4, 60, 3)
    histogram, want = LabelHistogram(3, 256), LabelHistogram(1, 256)
    histogram.update(**data)
    weights = data["weights"][:, None].expand(60, 3).reshape(-1)
    want.update(*(data[name].reshape(-1, 1) for name in ("logits", "labels", "mask")), weights)
    assert_same(pooled_labels(histogram), want)


def test_label_slices_cover_the_labels_within_memory() -> None:
    histogram = LabelHistogram(100, 16_384)
    slices = list(histogram.label_slices(bytes_per_bin=128))
    assert [label for labels in slices for label in range(100)[labels]] == list(range(100))
    assert {len(range(100)[labels]) for labels in slices[:-1]} == {32}


def test_table_reads_back_from_parquet(tmp_path: Path) -> None:
    histogram = LabelHistogram(3, 512)
    histogram.update(**batch(5, 80, 3))
    table = table_of(histogram)
    assert table.num_rows == int(histogram.nonempty().sum())
    pq.write_table(table, tmp_path / "histograms.parquet")
    assert_same(histogram_of(pq.read_table(tmp_path / "histograms.parquet")), histogram)


def test_empty_table_reads_back() -> None:
    assert_same(histogram_of(table_of(LabelHistogram(2, 256))), LabelHistogram(2, 256))


def with_metadata(table: pa.Table, **changes: Any) -> pa.Table:
    document = json.loads(table.schema.metadata[b"mlclf_histogram"]) | changes
    return table.replace_schema_metadata({b"mlclf_histogram": json.dumps(document)})


def test_table_of_another_kind_is_refused() -> None:
    message = (
        "a table of histograms must have the columns label, bin, positives, negatives, least, greatest and the "
        "metadata 'mlclf_histogram', got the columns x without it; it is another file"
    )
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        histogram_of(pa.table({"x": [1]}))
    table = table_of(LabelHistogram(1, 256)).drop_columns(["bin", "least", "greatest"])
    message = message.replace("columns x without", "columns label, positives, negatives with")
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        histogram_of(table)


def test_table_of_another_version_is_refused() -> None:
    message = "a table of histograms must have format_version 2, got 3; read it with the version of mlclf that wrote it"
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        histogram_of(with_metadata(table_of(LabelHistogram(1, 256)), format_version=3))


def test_damaged_table_is_refused() -> None:
    histogram = LabelHistogram(1, 512)
    histogram.update(torch.tensor([[-1.0], [20.0]]), torch.tensor([[0], [1]]))
    message = (
        "a table of histograms of 1 labels and 256 bins must not have label 0, bin 426 (row 1); the file is damaged"
    )
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        histogram_of(with_metadata(table_of(histogram), num_bins=256))


def test_damaged_counts_order_and_metadata_are_refused() -> None:
    histogram = LabelHistogram(1, 512)
    histogram.update(torch.tensor([[-1.0], [20.0]]), torch.tensor([[0], [1]]))
    table = table_of(histogram)
    columns = {name: table[name].to_pylist() for name in table.column_names}
    message = (
        "a table of histograms must have finite counts of at least 0 and a least logit not above the greatest, got "
        "positives 1.0, negatives 0.0, least 20.0, greatest 19.0 (row 1); the file is damaged"
    )
    broken = pa.table(columns | {"greatest": [-1.0, 19.0]}).replace_schema_metadata(table.schema.metadata)
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        histogram_of(broken)
    message = (
        "a table of histograms must be ordered by label and bin, each once, got label 0, bin 247 (row 1) out of order; "
        "the file is damaged"
    )
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        histogram_of(table.take([1, 0]))
    message = (
        "the metadata of a table of histograms must have num_bins, rows, positive_rows, least_weight, "
        "greatest_weight, for as many labels, got "
        "format_version, num_bins, weighted, rows, positive_rows, least_weight, greatest_weight; the file is damaged"
    )
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        histogram_of(with_metadata(table, rows=[2, 2]))
    message = "the metadata of a table of histograms must be JSON; the file is damaged"
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        histogram_of(table.replace_schema_metadata({b"mlclf_histogram": b"{"}))


@pytest.mark.parametrize(("value", "shown"), [(torch.nan, "nan"), (torch.inf, "inf"), (-torch.inf, "-inf")])
def test_infinite_and_nan_logits_are_refused_before_anything_is_counted(value: float, shown: str) -> None:
    histogram = LabelHistogram(2, 256)
    logits = torch.zeros(4, 2)
    logits[2, 1] = logits[3, 0] = value
    message = (
        f"logits must be finite where a label is observed, got {shown} for label 1 "
        "(2 such cells in a batch); look for infinite inputs or weights"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        histogram.update(logits, torch.zeros(4, 2, dtype=torch.bool))
    assert_same(histogram, LabelHistogram(2, 256))


@pytest.mark.parametrize(("weight", "shown"), [(-0.5, "-0.5"), (torch.nan, "nan"), (torch.inf, "inf")])
def test_bad_weights_are_refused(weight: float, shown: str) -> None:
    message = f"weights must be finite and not negative, got {shown} in row 1 of a batch"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        LabelHistogram(1, 256).update(
            torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.bool), None, torch.tensor([1.0, weight])
        )


def test_bad_weights_of_cells_are_refused() -> None:
    weights = torch.ones(2, 3)
    weights[1, 2] = -1
    message = "weights must be finite and not negative, got -1.0 in row 1 for label 2 of a batch"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        LabelHistogram(3, 256).update(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool), None, weights)


def test_histograms_of_other_shapes_do_not_merge() -> None:
    message = "histograms must have the same labels and bins to be merged, got (2, 256) and (2, 512)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LabelHistogram(2, 256).merge(LabelHistogram(2, 512))


# ── effective rows ──────────────────────────────────────────────────────────────────────────────────────────────────


def kish(weights: Tensor) -> float:
    """(Σw)² / Σw² by its definition."""
    return float(weights.sum() ** 2 / weights.square().sum()) if len(weights) else 0.0


def assert_effective(histogram: LabelHistogram, data: dict[str, Tensor], weights: Tensor) -> None:
    """The histogram has the effective rows of these, each label of those that it observes and that count."""
    for label in range(histogram.num_labels):
        seen = data["mask"][:, label] & (weights > 0)
        positive = data["labels"][:, label] != 0
        assert float(histogram.effective_rows()[label]) == pytest.approx(kish(weights[seen]))
        wanted = [kish(weights[seen & ~positive]), kish(weights[seen & positive])]
        assert histogram.effective_class_rows()[label].tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e9])
@pytest.mark.parametrize("by_cell", [False, True])
def test_effective_rows_are_those_of_kish(unit: float, by_cell: bool) -> None:
    data, random = batch(0, 150, 3), torch.Generator().manual_seed(0)
    weights = torch.rand(150, generator=random, dtype=torch.float64) * unit
    weights[:10] = 0
    whole = LabelHistogram(3, 256)
    given = weights[:, None].expand(150, 3) if by_cell else weights
    whole.update(data["logits"], data["labels"], data["mask"], given)
    assert_effective(whole, data, weights)
    parts = [LabelHistogram(3, 256) for _ in range(2)]
    for part, rows in zip(parts, (slice(0, 60), slice(60, 150)), strict=True):
        part.update(data["logits"][rows], data["labels"][rows], data["mask"][rows], given[rows])
    both = LabelHistogram(3, 256)
    for part in parts:
        both.merge(part)
    assert_effective(both, data, weights)
    assert_effective(joined_bins(both, 64), data, weights)
    assert_effective(histogram_of(table_of(both)), data, weights)
    rest = {name: values[60:] for name, values in data.items()}
    assert_effective(without_rows(both, parts[0]), rest, weights[60:])
    scaled = scaled_weights(both, torch.tensor([2.0, 1.0, 5.0]), torch.tensor([2.0, 1.0, 5.0]))
    assert_effective(scaled, data, weights)
    every = torch.cat([weights[data["mask"][:, label] & (weights > 0)] for label in range(3)])
    assert float(pooled_labels(whole).effective_rows()) == pytest.approx(kish(every))


def test_rows_of_one_weight_are_effective_rows_exactly() -> None:
    """Whatever the weight, and with rows of weight 1 before those of others."""
    data = batch(1, 150, 2)
    for weight in (1.0, 0.1, 3e7):
        histogram = LabelHistogram(2, 256)
        histogram.update(data["logits"], data["labels"], None, torch.full((150,), weight, dtype=torch.float64))
        assert histogram.effective_rows().tolist() == [150.0, 150.0]
    mixed = LabelHistogram(2, 256)
    mixed.update(data["logits"], data["labels"])
    mixed.update(data["logits"], data["labels"], None, torch.full((150,), 2.0, dtype=torch.float64))
    wanted = kish(torch.cat([torch.ones(150), torch.full((150,), 2.0)]))
    assert mixed.effective_rows().tolist() == pytest.approx([wanted] * 2)


def test_a_table_of_before_counts_rows() -> None:
    data = batch(2, 100, 2)
    histogram = LabelHistogram(2, 256)
    histogram.update(data["logits"], data["labels"], None, torch.full((100,), 2.0, dtype=torch.float64))
    table = table_of(histogram)
    document = json.loads(table.schema.metadata[b"mlclf_histogram"])
    old = {name: value for name, value in document.items() if not name.startswith("weighted_")}
    read = histogram_of(table.replace_schema_metadata({b"mlclf_histogram": json.dumps(old).encode()}))
    assert read.effective_rows().tolist() == [100.0, 100.0]
