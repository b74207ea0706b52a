"""Names are one or several, and a table in memory is none of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import mlclf
from mlclf.errors import ConfigError
from mlclf.names import names_of


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("a.parquet", ["a.parquet"]),
        (Path("a"), ["a"]),
        (["a", Path("b")], ["a", "b"]),
        (np.array(["x", "y"]), ["x", "y"]),
        ((name for name in ("x", "y")), ["x", "y"]),
        ((), []),
    ],
)
def test_one_name_or_several(given: Any, names: list[str]) -> None:
    assert names_of(given) == names


FRAME = pl.DataFrame({"x": range(1000), "y": [0, 1] * 500})


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        (FRAME, "a DataFrame of polars"),
        (FRAME.lazy(), "a LazyFrame of polars"),
        (FRAME.to_arrow(), "a Table of pyarrow"),
        (FRAME.to_numpy(), "an array of numpy"),
        ({"x": [1], "y": [0]}, "a dict"),
        (7, "an int"),
        (b"a.parquet", "a bytes"),
    ],
)
def test_a_table_is_no_name(table: Any, kind: str, tmp_path: Path) -> None:
    message = (
        f"data must be a name or a list of names of files, folders, globs or URIs, got {kind}; "
        "write it to a Parquet file and give its path"
    )
    jobs = (
        lambda: mlclf.fit(table, labels="y", out=tmp_path / "run"),
        lambda: mlclf.ParquetLoader(table, labels="y"),
        lambda: mlclf.shuffle(table, tmp_path / "out"),
        lambda: mlclf.split(table, tmp_path / "out", (0.5, 0.5)),
        lambda: mlclf.convert(table, tmp_path / "out"),
        lambda: mlclf.evaluate_scores(table, score_kind="probability"),
    )
    for job in jobs:
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            job()
    assert not list(tmp_path.iterdir())


def test_columns_are_named() -> None:
    message = (
        "labels must be a name or a list of names of columns or globs, got a Series of polars; "
        "give columns of the data by name"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        mlclf.fit("d.parquet", labels=FRAME["y"], out="run")


def test_completion_shows_the_public_names() -> None:
    assert set(mlclf.__all__) <= set(dir(mlclf))
