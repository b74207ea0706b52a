"""Data from a known linear model: numbers with missing values, cities, words, and labels of every prevalence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from mlclf.decisions.metrics.exact_ranking import exact_rankings
from mlclf.files import committed

ROWS = 60_000
TRAIN_SHARDS, TEST_SHARDS = 4, 2
GROUPS_PER_SHARD = 4

PREVALENCES = {
    "label_buys": 0.35,
    "label_returns": 0.15,
    "label_churns": 0.08,
    "label_upgrades": 0.03,
    "label_complains": 0.012,
    "label_fraud": 0.005,
}
UNOBSERVED_LABEL, UNOBSERVED_SHARE = "label_returns", 0.1
"""A label that is null, not observed, in a share of the rows."""

LEVEL_SCALES = np.array([0.8, 0.7, 0.6, 0.5, 0.35, 0.3])
"""Deviation of the effects of cities and words, by label: few rare positives cannot teach thousands of effects."""

NUMBERS = ("age", "income", "visits", "discount", "premium", "joined", "last_seen")
MISSING_SHARES = {"age": 0.08, "income": 0.12}
PLANS = ("free", "basic", "family", "business")
NUM_CITIES, NUM_WORDS, MAX_WORDS = 600, 200, 8
SECOND = 1_000_000  # microseconds
FIRST_DAY = 18_262  # 2020-01-01, counted from 1970-01-01

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DemoTruth:
    """What is known about the data, because it was made.

    Attributes:
        train, test: folders of Parquet shards.
        labels: names of the label columns.
        positives: by label, observed positive rows of the test data.
        best_auroc: by label, AUROC of the true probabilities on the test rows, ties counted half. A model can beat it
            on these rows only by luck. NaN where the test rows are all of one class.
    """

    train: Path
    test: Path
    labels: tuple[str, ...]
    positives: dict[str, int]
    best_auroc: dict[str, float]


def write_demo_data(folder: Path, seed: int = 0, rows: int = ROWS) -> DemoTruth:
    """Write ``folder/train`` and ``folder/test``: Parquet shards with several row groups and page checksums.

    The log-odds of each label are an exactly linear function of the inputs as `mlclf` encodes them: numbers, an
    indicator where a number is missing, one effect for each city, plan and word. So a good fit comes near the truth.

    Args:
        folder: is created; files of the same names are replaced.
        seed: decides the model and the rows.
        rows: of the training data; half as many are made to test.
    """
    model = _TrueModel.drawn(seed)
    train, test = folder / "train", folder / "test"
    _write_shards(train, model, seed, rows, TRAIN_SHARDS, first_shard=0)
    logits, labels = _write_shards(test, model, seed, rows // 2, TEST_SHARDS, first_shard=TRAIN_SHARDS)
    names = tuple(PREVALENCES)
    observed = [labels[:, index] >= 0 for index in range(len(names))]
    positive = [labels[seen, index] == 1 for index, seen in enumerate(observed)]
    scored = [torch.from_numpy(logits[seen, index]) for index, seen in enumerate(observed)]
    best, _ = exact_rankings(len(names), lambda index: (scored[index], torch.from_numpy(positive[index]), None))
    return DemoTruth(
        train,
        test,
        names,
        {name: int(positive[index].sum()) for index, name in enumerate(names)},
        dict(zip(names, best.tolist(), strict=True)),
    )


@dataclass(frozen=True)
class _Rows:
    """Inputs of n rows before they become columns.

    Attributes:
        numbers: [n] float64 by column, as stored; NaN where missing.
        cities, plans: [n] int64 codes, -1 where missing.
        words: [sum of word_counts] int64; word_counts: [n] int64, -1 where the whole list is missing.
    """

    numbers: dict[str, Floats]
    cities: NDArray[np.int64]
    plans: NDArray[np.int64]
    words: NDArray[np.int64]
    word_counts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.cities)

    @classmethod
    def drawn(cls, random: np.random.Generator, rows: int) -> _Rows:
        """Rows of a made-up shop's customers."""
        numbers: dict[str, Floats] = {
            "age": random.normal(*_CENTRES["age"], rows).astype(np.float32).astype(np.float64),
            "income": random.normal(*_CENTRES["income"], rows),
            "visits": random.poisson(4, rows).astype(np.float64),
            "discount": random.integers(0, 50, rows).astype(np.float64),
            "premium": (random.random(rows) < 0.3).astype(np.float64),
            "joined": random.integers(FIRST_DAY, FIRST_DAY + 1_461, rows).astype(np.float64),
            "last_seen": (random.integers(0, 90 * 86_400, rows) + 86_400 * (FIRST_DAY + 1_461)).astype(np.float64),
        }
        for name, share in MISSING_SHARES.items():
            numbers[name][random.random(rows) < share] = np.nan
        popularity = 1 / (np.arange(NUM_CITIES) + 10)
        cities = random.choice(NUM_CITIES, rows, p=popularity / popularity.sum())
        cities[random.random(rows) < 0.03] = -1
        plans = random.integers(-1, len(PLANS), rows)
        counts = random.integers(0, MAX_WORDS + 1, rows)
        frequency = 1 / (np.arange(NUM_WORDS) + 20)
        words = random.choice(NUM_WORDS, int(counts.sum()), p=frequency / frequency.sum())
        absent = random.random(rows) < 0.04
        return cls(
            numbers, cities, plans, words[np.repeat(~absent, counts)].astype(np.int64), np.where(absent, -1, counts)
        )

    def columns(self) -> dict[str, pa.Array]:
        """Arrow columns of mixed types."""
        numbers = {name: pa.array(values, from_pandas=True) for name, values in self.numbers.items()}  # NaN is null
        cities = pa.array([f"city {code:04d}" for code in range(NUM_CITIES)])
        words = pa.array([f"word{code:03d}" for code in range(NUM_WORDS)])
        ends = np.cumsum(np.maximum(self.word_counts, 0), dtype=np.int32)
        offsets = pa.array(np.append(np.int32(0), ends), mask=np.append(self.word_counts < 0, False))
        return {
            "age": numbers["age"].cast(pa.float32()),
            "income": numbers["income"],
            "visits": numbers["visits"].cast(pa.int32()),
            "discount": numbers["discount"].cast(pa.int8()),
            "premium": pa.array(self.numbers["premium"] == 1),
            "joined": numbers["joined"].cast(pa.int32()).cast(pa.date32()),
            "last_seen": pa.array((self.numbers["last_seen"] * SECOND).astype(np.int64), pa.timestamp("us")),
            "city": cities.take(_indices(self.cities)),
            "plan": pa.DictionaryArray.from_arrays(_indices(self.plans).cast(pa.int8()), list(PLANS)),
            "words": pa.ListArray.from_arrays(offsets, words.take(pa.array(self.words))),
        }


_CENTRES = {
    "age": (40.0, 12.0),
    "income": (3_000.0, 800.0),
    "visits": (4.0, 2.0),
    "discount": (24.5, 14.4),
    "premium": (0.3, 0.46),
    "joined": (FIRST_DAY + 730.0, 422.0),
    "last_seen": (86_400.0 * (FIRST_DAY + 1_506), 2.24e6),
}
"""About the mean and the deviation of each number: effects are given for a change of one deviation."""


@dataclass(frozen=True)
class _TrueModel:
    """Effects on the log-odds of K labels.

    Attributes:
        bias: [K].
        slopes: by number, [K] for a change of one deviation.
        absent: by number that can be missing, [K].
        cities, plans, words: [levels + 1, K], the last row being the effect of a missing value.
    """

    bias: Floats
    slopes: dict[str, Floats]
    absent: dict[str, Floats]
    cities: Floats
    plans: Floats
    words: Floats

    @classmethod
    def drawn(cls, seed: int) -> _TrueModel:
        """Draw effects, and the bias that gives each label its prevalence."""
        random = np.random.default_rng([seed, 0])
        num_labels = len(PREVALENCES)
        model = cls(
            np.zeros(num_labels),
            {name: random.normal(0, 0.5, num_labels) for name in NUMBERS},
            {name: random.normal(0, 0.7, num_labels) for name in MISSING_SHARES},
            random.normal(0, 1, (NUM_CITIES + 1, num_labels)) * LEVEL_SCALES,
            random.normal(0, 0.5, (len(PLANS) + 1, num_labels)),
            random.normal(0, 0.6, (NUM_WORDS + 1, num_labels)) * LEVEL_SCALES,
        )
        logits = model.logits(_Rows.drawn(random, 40_000))
        bias = [_bias_for(logits[:, index], share) for index, share in enumerate(PREVALENCES.values())]
        return cls(np.array(bias), model.slopes, model.absent, model.cities, model.plans, model.words)

    def logits(self, rows: _Rows) -> Floats:
        """True log-odds: [n, K]."""
        logits = self.bias + self.cities[rows.cities] + self.plans[rows.plans]
        for name, values in rows.numbers.items():
            mean, deviation = _CENTRES[name]
            logits += np.nan_to_num((values - mean) / deviation)[:, None] * self.slopes[name]
            if name in self.absent:
                logits += np.isnan(values)[:, None] * self.absent[name]
        owners = np.repeat(np.arange(len(rows)), np.maximum(rows.word_counts, 0))
        np.add.at(logits, owners, self.words[rows.words])
        logits[rows.word_counts < 0] += self.words[-1]
        return logits


def _bias_for(logits: Floats, prevalence: float) -> float:
    """Return what must be added to `logits` [n] so that their mean probability is `prevalence`."""
    low, high = -50.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        if _probabilities(logits + middle).mean() < prevalence:
            low = middle
        else:
            high = middle
    return low


def _probabilities(logits: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -logits))


def _write_shards(
    folder: Path, model: _TrueModel, seed: int, rows: int, num_shards: int, first_shard: int
) -> tuple[Floats, NDArray[np.int8]]:
    """Write the shards and return true log-odds [rows, K] and labels [rows, K], -1 where not observed."""
    logits, labels = [], []
    for shard in range(num_shards):
        random = np.random.default_rng([seed, 1 + first_shard + shard])
        size = rows * (shard + 1) // num_shards - rows * shard // num_shards
        drawn = _Rows.drawn(random, size)
        logits.append(model.logits(drawn))
        labels.append(_drawn_labels(random, logits[-1]))
        keys = pa.array([f"c{first_shard + shard}-{row:06d}" for row in range(size)], pa.string())
        table = pa.table({"customer": keys} | drawn.columns() | _label_columns(labels[-1]))
        with committed(folder / f"part-{shard:03d}.parquet") as path:
            pq.write_table(
                table,
                path,
                row_group_size=max(1, -(-size // GROUPS_PER_SHARD)),
                compression="zstd",
                write_page_checksum=True,
            )
    return np.concatenate(logits), np.concatenate(labels)


def _drawn_labels(random: np.random.Generator, logits: Floats) -> NDArray[np.int8]:
    labels = (random.random(logits.shape) < _probabilities(logits)).astype(np.int8)
    labels[random.random(len(labels)) < UNOBSERVED_SHARE, list(PREVALENCES).index(UNOBSERVED_LABEL)] = -1
    return labels


def _label_columns(labels: NDArray[np.int8]) -> dict[str, pa.Array]:
    return {name: pa.array(labels[:, index] == 1, mask=labels[:, index] < 0) for index, name in enumerate(PREVALENCES)}


def _indices(codes: NDArray[np.int64]) -> pa.Array:
    return pa.array(codes, mask=codes < 0)
