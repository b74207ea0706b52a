"""Absurd numbers as settings and options: the setting is named with exit code 2, or the fit works; nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.config.loading import load_run_file
from mlclf.config.settings import Arguments, Settings
from mlclf.errors import MlclfError

VALUES = (
    "0",
    "-1",
    "1",
    "1e-4",
    "1000",
    "1000000000000",
    "1" + "0" * 30,
    "9" * 5000,
    "1e30",
    "1e308",
    "-0.0",
    "nan",
    "inf",
)

TRIED = {
    "training.epochs": (), "model.hidden": ("[1000000]", "[1000000, 1000000]", "[" + "3, " * 99 + "3]"),
    "training.seed": ("9223372036854775807",), "runtime.memory_budget": ("1KiB", "1000TiB"),
    "features.hash_buckets": ("2147483648",), "training.batch_rows": ("2147483647",),
    "features.vocabulary_levels": ("2147483647",), "features.hash_limit": ("2147483647",),
    "training.patience": ("2147483647",), "optimizer.lr": ("1e9", "1e-300"), "optimizer.l2": ("1e15", "1e-300"),
    "optimizer.l1": ("1e15", "1e-300"), "loss.pos_weight": ("1e9", "1e-300"), "search.c_low": ("1e-15",),
    "search.c_high": ("1e15",), "search.steps_per_decade": (), "runtime.threads": (), "folds": ("100",),
    "valid_fraction": ("0.999999999", "1e-300"),
}  # fmt: skip
"""Every number among the settings and arguments, with values at its own bounds."""


def numeric_settings() -> set[str]:
    """Names of all settings and arguments that take a number."""
    found = {name for name, kind in get_type_hints(Arguments).items() if name != "model_config" and takes_number(kind)}
    for section, model in get_type_hints(Settings).items():
        if section != "model_config":
            kinds = get_type_hints(model)
            found |= {f"{section}.{name}" for name in model.model_fields if takes_number(kinds[name])}
    return found


def takes_number(kind: Any) -> bool:
    return kind in (int, float) or any(map(takes_number, get_args(kind)))


def test_every_numeric_setting_is_tried() -> None:
    literals = {"data.label_values"}  # 0 and 1, no numbers
    assert numeric_settings() - literals == set(TRIED)


def refusal(text: str) -> str | None:
    """What is said against a setting; None where it is read."""
    try:
        load_run_file(None, [text])
    except MlclfError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", TRIED)
def test_absurd_values_are_read_or_refused_by_name(name: str) -> None:
    for value in (*VALUES, *TRIED[name]):
        for text in (value, f"[{value}]", f"'{value}'", f"{{a: {value}}}", "[" + value + ", " + value + "]"):
            said = refusal(f"{name}={text}")
            assert said is None or (name in said and len(said) < 500), said


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 rows of numbers, levels, text and tokens, and two labels."""
    random = np.random.default_rng(0)
    x = random.normal(size=(120, 2)).astype(np.float32)
    words = [" ".join(random.choice(["red", "blue", "green", "old"], 3)) for _ in range(120)]
    table = pa.table(
        {
            "x": x[:, 0],
            "level": pa.array([str(number % 5) for number in range(120)]),
            "words": pa.array(words),
            "a": x[:, 0] + random.normal(size=120) > 0,
            "b": x[:, 1] > 0.5,
        }
    )
    path = tmp_path_factory.mktemp("absurd") / "data.parquet"
    pq.write_table(table, path)
    return path


EXACT, STEPS = ("--set", "optimizer.name=lbfgs"), ("--set", "optimizer.name=adam", "--set", "training.epochs=2")
FITS = [
    ("training.batch_rows", "1", STEPS), ("training.batch_rows", "2147483647", STEPS),
    ("training.seed", "9223372036854775807", STEPS), ("training.patience", "2147483647", STEPS[:2]),
    ("model.hidden", "[100000, 100000]", STEPS), ("model.hidden", "[" + "3, " * 99 + "3]", STEPS),
    ("runtime.memory_budget", "1", EXACT), ("runtime.memory_budget", "1KiB", EXACT),
    ("runtime.memory_budget", "1000TiB", EXACT), ("runtime.memory_budget", "1000TiB", STEPS),
    ("runtime.threads", "1000", EXACT), ("runtime.threads", "1000", STEPS),
    ("features.hash_buckets", "1", EXACT), ("features.hash_buckets", "2147483648", EXACT),
    ("features.hash_buckets", "2147483648", STEPS), ("features.vocabulary_levels", "2147483647", EXACT),
    ("features.vocabulary_levels", "1", EXACT), ("features.hash_limit", "2147483647", EXACT),
    ("features.hash_limit", "1", EXACT), ("optimizer.lr", "1e9", STEPS), ("optimizer.lr", "1e-300", STEPS),
    ("optimizer.l2", "1e15", EXACT), ("optimizer.l2", "1e-300", EXACT), ("optimizer.l2", "0", EXACT),
    ("optimizer.l2", "1e15", STEPS), ("optimizer.l2", "1e-300", STEPS), ("optimizer.l1", "1e15", EXACT),
    ("optimizer.l1", "1e-300", EXACT), ("optimizer.l1", "1e15", STEPS), ("loss.pos_weight", "1e9", EXACT),
    ("loss.pos_weight", "1e-300", EXACT), ("loss.pos_weight", "1e9", STEPS), ("loss.pos_weight", "1e-300", STEPS),
    ("search.c_low", "1e-15", EXACT), ("search.c_high", "1e15", EXACT), ("search.steps_per_decade", "1000", EXACT),
    ("folds", "100", EXACT), ("valid_fraction", "0.999999999", EXACT), ("valid_fraction", "1e-300", EXACT),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value", "solver"), FITS)
def test_a_fit_at_a_bound_works_or_names_it(
    name: str, value: str, solver: tuple[str, ...], data: Path, tmp_path: Path, mlclf_command: Any
) -> None:
    rows = [] if name in ("folds", "valid_fraction") else ["--valid-fraction", "0.3"]
    fixed = [] if name.startswith("search") or name == "optimizer.l2" else ["--set", "optimizer.l2=0.1"]
    called = mlclf_command(
        "fit", data, "--labels", "a", "b", *rows, "--set", "features.roles.words=text", *fixed, *solver,
        "--set", f"{name}={value}", "--out", tmp_path / "run",
    )  # fmt: skip
    assert "defect" not in called.err
    assert called.code in (0, 2) or (name == "optimizer.lr" and "loss" in called.err), called.err
    words = {"valid_fraction": "each of the 120 rows is held out", "optimizer.lr": "loss"}
    assert called.code == 0 or words.get(name, name) in called.err, called.err
