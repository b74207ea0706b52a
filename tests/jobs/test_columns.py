"""What a fit makes of columns that other programs write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jobs.made_tables import document, plain_table, with_column, write

from mlclf import Run, fit

QUICK: dict[str, object] = {"optimizer.l2": 0.01}


def scores_of(run: Run, data: str, out: Path, label: str = "label_a") -> list[float]:
    run.predict(data, out)
    parts = [pq.ParquetFile(part).read() for part in sorted(out.rglob("*.parquet"))]
    return [float(score) for score in pa.concat_tables(parts).column(f"score_{label}").to_pylist()]


@pytest.mark.parametrize("way", ["folds", "fraction", "valid", "where", "group"])
def test_text_in_views_gives_the_model_of_text(tmp_path: Path, way: str) -> None:
    table = with_column(plain_table(300), "tags", [["u", "v"], [], None] * 100)
    as_views = table
    for name, kind in (("city", pa.string_view()), ("tags", pa.list_(pa.string_view()))):
        as_views = as_views.set_column(table.schema.get_field_index(name), name, table.column(name).cast(kind))
    found = []
    for name, rows in (("plain", table), ("views", as_views)):
        data = write(tmp_path / f"{name}.parquet", rows)
        options = {
            "folds": {"folds": 2},
            "fraction": {"valid_fraction": 0.3},
            "valid": {"valid": data},
            "where": {"valid_fraction": 0.3, "settings": QUICK | {"data.where": "city <> 'oslo'"}},
            "group": {"group": "city", "valid_by": "group:city", "settings": QUICK | {"training.seed": 3}},
        }[way]
        arguments = {"settings": QUICK} | options
        run = fit(data, "label_*", tmp_path / f"run_{name}", exclude="id", **arguments)  # type: ignore[arg-type]
        found.append((run.metrics, scores_of(run, data, tmp_path / f"scores_{name}")))
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert document(tmp_path / "run_views" / "features.json") == document(tmp_path / "run_plain" / "features.json")
