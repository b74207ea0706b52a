"""Fits whose rows come in groups."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_tables import plain_table, with_column, write

from mlclf import DataError, fit

QUICK: dict[str, object] = {"optimizer.l2": 0.01}


def fitted(folder: Path, groups: list[Any], **options: Any) -> Any:
    table = with_column(plain_table(len(groups)), "g", groups)
    data = write(folder / "a.parquet", table)
    return fit(data, "label_*", folder / "run", exclude="id", group="g", overwrite=True, settings=QUICK, **options)


@pytest.mark.slow
@pytest.mark.parametrize("names", [["site0", "site1", "site4"], ["site0", "site1"], ["a", "b", "c"]])
def test_few_groups_give_a_model(tmp_path: Path, names: list[str], caplog: pytest.LogCaptureFixture) -> None:
    run = fitted(tmp_path, [names[row % len(names)] for row in range(600)])
    assert run.metrics["macro"]["auroc"] > 0.75
    assert f"--group: column 'g' has {len(names)} groups, so there are {len(names)} folds, not 5" in caplog.text


@pytest.mark.parametrize("options", [{"valid_fraction": 0.2}, {"valid_by": "group:g"}])
def test_few_groups_are_held_out(tmp_path: Path, options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    run = fitted(tmp_path, ["a", "b"] * 300, **options)
    assert run.metrics["rows"] > 0
    assert re.search(
        r"--group: the held-out groups of column 'g' have 50% of the rows, \d+% were asked for", caplog.text
    )


def test_one_group_is_refused(tmp_path: Path) -> None:
    message = (
        "--group: column 'g' must have two groups or more to hold rows out by, and all 300 rows are of one; "
        "name another column, or give --valid DATA or --valid-fraction 0"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        fitted(tmp_path, ["a"] * 300)
    assert fitted(tmp_path, ["a"] * 300, valid_fraction=0).metrics is None


def test_a_group_of_most_rows_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fitted(tmp_path, ["a"] * 500 + [f"b{row}" for row in range(100)])
    assert "--group: one group of column 'g' has 83% of the rows, and groups stay together" in caplog.text


@pytest.mark.slow
def test_rows_without_a_group_are_spread(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    run = fitted(tmp_path, [None if rng.random() < 0.8 else f"g{row % 9}" for row in range(600)])
    assert run.metrics["macro"]["auroc"] > 0.75
