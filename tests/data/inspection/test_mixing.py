"""The estimate of mixing against a simulation of the pool, and 1 where the rows are in random order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from mlclf.data.inspection.mixing import ClusterTally, Mixing, estimate_mixing, live_clusters
from mlclf.data.parquet.planning import make_plan
from mlclf.data.schema.finding import find_schema

BATCH_ROWS = 512


def simulated(units: list[NDArray[np.bool_]], slabs: int, rng: np.random.Generator, epochs: int = 20) -> float:
    """Deviation of batch means against a random order, from a pool that is played through."""
    rate = np.concatenate(units).mean()
    squares = []
    for _ in range(epochs):
        waiting = [rng.permutation(units[index]) for index in rng.permutation(len(units))]
        # the first slabs are partly used up, as if the pool had run for a while
        live = [slab[rng.integers(len(slab)) :] for slab in waiting[:slabs]]
        waiting = waiting[slabs:]
        while True:
            batch: list[NDArray[np.bool_]] = []
            missing = BATCH_ROWS
            while missing and len(live) == slabs:
                share = -(-missing // slabs)
                for index, slab in enumerate(live):
                    taken = slab[: min(share, missing)]
                    batch.append(taken)
                    missing -= len(taken)
                    live[index] = slab[len(taken) :]
                live = [slab for slab in live if len(slab)]
                while len(live) < slabs and waiting:
                    live.append(waiting.pop())
            if missing:
                break  # the pool runs dry
            squares.append((np.concatenate(batch).mean() - rate) ** 2)
    return float(np.sqrt(np.mean(squares) / (rate * (1 - rate) / BATCH_ROWS)))


def estimated(units: list[NDArray[np.bool_]], slabs: int, batch_rows: int = BATCH_ROWS) -> float:
    tally = ClusterTally()
    for unit in units:
        tally.add(np.array([float(unit.sum())]), np.array([float(len(unit))]))
    rows = sum(map(len, units))
    return float(tally.ratios(live_clusters(len(units), len(units), rows, slabs, batch_rows), batch_rows, rows)[0])


def drawn(
    rates: NDArray[np.float64], rows: NDArray[np.int64] | int, rng: np.random.Generator
) -> list[NDArray[np.bool_]]:
    sizes = np.broadcast_to(rows, len(rates)).tolist()
    return [rng.random(size) < rate for rate, size in zip(rates, sizes, strict=True)]


RNG = np.random.default_rng(0)
UNITS = {
    "sorted by class": drawn(np.repeat([0.0, 1.0], 100), 4_000, RNG),
    "differing rates": drawn(RNG.beta(2, 8, 300), 3_000, RNG),
    "units of unequal size": drawn(RNG.beta(1, 3, 300), RNG.integers(600, 6_000, 300), RNG),
    "a rare label in a few units": drawn(np.where(np.arange(400) < 8, 0.3, 0.001), 3_000, RNG),
    "few units": drawn(np.repeat([0.1, 0.4], 12), 4_000, RNG),
    "units smaller than a share of a batch": drawn(RNG.beta(1, 3, 4_000), 32, RNG),
}


@pytest.mark.slow
@pytest.mark.parametrize("slabs", [8, 16])
@pytest.mark.parametrize("case", UNITS)
def test_the_estimate_is_what_a_pool_does(case: str, slabs: int) -> None:
    # 20 epochs of a few hundred batches, neighbours of which are alike: a standard error of up to 5 per cent
    units = UNITS[case]
    assert estimated(units, slabs) == pytest.approx(simulated(units, slabs, np.random.default_rng(1)), rel=0.15)


@pytest.mark.parametrize("slabs", [8, 16, 64])
def test_the_measured_deviations_of_sorted_data_come_out(slabs: int) -> None:
    """The table of mixing: 0.181, 0.130 and 0.063 where a random order has 0.022."""
    found = estimated(drawn(np.repeat([0.0, 1.0], 5_000), 64, RNG), slabs, batch_rows=slabs)
    deviation = found * np.sqrt(0.25 / slabs)
    assert deviation == pytest.approx({8: 0.177, 16: 0.125, 64: 0.0625}[slabs], rel=0.01)


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.001, 1e-5])
@pytest.mark.parametrize("rows", [300, 4_000])
def test_a_random_order_is_as_good_as_a_random_order(rate: float, rows: int) -> None:
    rng = np.random.default_rng(5)
    tally = ClusterTally()
    for _ in range(60):
        tally.add(rng.binomial(rows, rate, 500).astype(float), np.array([float(rows)]))
    ratios = tally.ratios(8.0, 512, 60 * rows)
    assert np.nanmax(ratios, initial=1.0) < 1.05


def test_a_pool_that_holds_everything_is_as_good_as_a_random_order() -> None:
    units = UNITS["few units"]
    assert estimated(units, len(units)) == 1.0
    assert estimated(units, 64) == 1.0
    assert estimated(units[:1], 8) == 1.0
    assert estimated(units, len(units) // 2) > 1.0


def test_labels_of_one_class_are_undefined() -> None:
    tally = ClusterTally()
    for _ in range(3):
        tally.add(np.array([0.0, 10.0, 0.0, 4.0]), np.array([10.0, 10.0, 0.0, 10.0]))
    ratios = tally.ratios(2.0, 5, 30)
    assert np.isnan(ratios).tolist() == [True, True, True, False]
    report = Mixing(("a", "b", "c", "d"), ratios, 5, 2, 3, 2.0).to_json()
    assert report["worst"] == {"label": "d", "deviation_ratio": 1.0}
    assert report["labels"] == {"a": None, "b": None, "c": None, "d": 1.0}
    nothing = Mixing(("a",), np.array([np.nan]), 5, 2, 3, 2.0).to_json()
    assert (nothing["worst"], nothing["median_deviation_ratio"]) == (None, None)


# ── from files ──────────────────────────────────────────────────────────────────────────────────────────────────────


def estimate(folder: Path, labels: list[str], **options: int) -> Mixing:
    plan = make_plan(str(folder))
    return estimate_mixing(plan, find_schema(plan, labels), {}, **options)


def write_units(folder: Path, label: NDArray[np.bool_], files: int, group: int = 1 << 20) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    unknown = np.arange(len(label)) % 3 == 0
    columns = {
        "x": np.arange(len(label), dtype=np.float32),
        "label_a": label,
        "label_b": pa.array(np.roll(label, len(label) // 7).astype(np.int8), mask=unknown),
        "label_c": np.random.default_rng(2).random(len(label)) < 0.3,
    }
    table = pa.table(columns)
    size = len(label) // files
    for index in range(files):
        pq.write_table(table.slice(index * size, size), folder / f"{index:03d}.parquet", row_group_size=group)


def test_units_of_files_are_counted(tmp_path: Path) -> None:
    label = np.arange(60_000) < 20_000
    write_units(tmp_path, label, files=60)
    found = estimate(tmp_path, ["label_*"], slabs=8, slab_rows=4_096, batch_rows=256)
    assert found.label_names == ("label_a", "label_b", "label_c")
    assert (found.clusters, found.live) == (60, pytest.approx(8, rel=0.01))
    assert found.ratios[0] == pytest.approx(estimated(np.split(label, 60), 8, 256), rel=1e-12)
    assert found.ratios[1] > 3
    assert found.ratios[2] == 1.0
    report = found.to_json()
    assert report["worst"] == {"label": "label_a", "deviation_ratio": found.ratios[0]}
    assert report["median_deviation_ratio"] == found.ratios[1]


def test_a_unit_larger_than_a_slab_is_several_clusters(tmp_path: Path) -> None:
    """Of one sorted file the pool holds 8 slabs, one after the other: a run of it, in which there is one class."""
    label = np.arange(60_000) < 30_000
    write_units(tmp_path, label, files=1)
    found = estimate(tmp_path, ["label_a"], slabs=8, slab_rows=250, batch_rows=256)
    assert (found.clusters, found.live) == (30, pytest.approx(1, rel=0.01))
    assert found.ratios[0] == pytest.approx(np.sqrt(256), rel=0.01)
    two = estimate(tmp_path, ["label_a"], slabs=240, slab_rows=250, batch_rows=256)
    assert (two.clusters, two.live, two.ratios[0]) == (1, 1.0, 1.0)
    write_units(tmp_path / "two", label, files=2)
    found = estimate(tmp_path / "two", ["label_a"], slabs=8, slab_rows=250, lanes=2, batch_rows=256)
    assert (found.clusters, found.live) == (60, pytest.approx(2, rel=0.01))


def test_tags_are_the_same_as_columns(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    held = rng.random((20_000, 3)) < np.linspace(0.05, 0.5, 20_000)[:, None] * [1.0, 0.3, 0.0] + [0, 0.1, 0.2]
    missing = np.arange(20_000) % 4 == 0
    tags = [
        None if absent else [f"t{tag}" for tag in np.flatnonzero(row)]
        for row, absent in zip(held, missing, strict=True)
    ]
    columns = {f"t{tag}": pa.array(held[:, tag], mask=missing) for tag in range(3)}
    table = pa.table({"x": np.zeros(20_000), "tags": tags, **columns})
    for index in range(20):
        pq.write_table(table.slice(index * 1_000, 1_000), tmp_path / f"{index:02d}.parquet")
    options = {"slabs": 4, "slab_rows": 700, "batch_rows": 256}
    by_tag = estimate(tmp_path, ["tags"], **options)
    by_column = estimate(tmp_path, ["t0", "t1", "t2"], **options)
    ratios = dict(zip(by_tag.label_names, by_tag.ratios, strict=True))
    assert [ratios[name] for name in by_column.label_names] == pytest.approx(by_column.ratios.tolist(), rel=1e-12)
    assert ratios["t0"] > 1.1
    assert ratios["t2"] == 1.0
