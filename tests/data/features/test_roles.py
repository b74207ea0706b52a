"""The table of roles: what its lines promise, and that a role is one class and one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

import mlclf
from mlclf.config.fields import Role
from mlclf.data.arrow.arrays import one_array
from mlclf.data.arrow.families import FAMILY_NAMES
from mlclf.data.arrow.lists import list_parts
from mlclf.data.features.fitted_column import EncodingOptions, FeatureColumn, FittedColumn
from mlclf.data.features.roles import ROLES
from mlclf.data.inspection.report import inspect


@dataclass
class ShareColumn(FittedColumn):
    """A list of booleans a row; the one input is the share that is true, 0 for a list without an element."""

    role = "share"
    families: ClassVar[tuple[str, ...]] = ("bools",)
    suggested_by: ClassVar[tuple[str, ...]] = families

    varies: bool = False

    @classmethod
    def fresh(cls, column: FeatureColumn, options: EncodingOptions) -> Self:
        return cls(column.name)

    def fit(self, table: pa.Table, where: str, weights: NDArray[np.float64] | None) -> None:
        self.varies = self.varies or len(np.unique(self._shares(table))) > 1

    def finish(self) -> None:
        """Nothing is left to be done."""

    def warning(self) -> str | None:
        return None if self.varies else f"column {self.name!r} is constant; it is left out"

    def dense_names(self) -> list[str]:
        return [f"share of {self.name}"] if self.varies else []

    def encode_dense(self, table: pa.Table, where: str, out: NDArray[np.float32]) -> None:
        out[0] = self._shares(table)

    def _shares(self, table: pa.Table) -> NDArray[np.float64]:
        offsets, flags = list_parts(one_array(table.column(self.name)))
        totals = np.concatenate([[0], np.cumsum(flags.cast(pa.int64()).to_numpy(zero_copy_only=False))])
        return (totals[offsets[1:]] - totals[offsets[:-1]]) / np.maximum(np.diff(offsets), 1)

    def state(self) -> dict[str, Any]:
        return {"varies": self.varies}

    @classmethod
    def restore(cls, name: str, state: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        return cls(name, state["varies"])


def test_a_role_is_a_class_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROLES, ShareColumn.role, ShareColumn)
    rng = np.random.default_rng(0)
    flags = [(rng.random(4) < rng.random()).tolist() for _ in range(400)]
    share = np.array([np.mean(row) for row in flags])
    table = pa.table({"flags": flags, "same": [[True]] * 400, "x": rng.normal(size=400), "y": share > 0.5})
    pq.write_table(table, tmp_path / "rows.parquet")
    assert [(c["name"], c["role"]) for c in inspect(str(tmp_path / "rows.parquet"))["columns"]][:2] == [
        ("flags", "share"), ("same", "share")]  # fmt: skip
    settings = {"features.knots": "none", "optimizer.l2": 0.01}
    mlclf.fit(str(tmp_path / "rows.parquet"), "y", tmp_path / "run", settings=settings)
    document = json.loads((tmp_path / "run" / "features.json").read_text())
    assert document["dense"] == ["share of flags", "x"]
    assert {"name": "flags", "role": "share", "varies": True} in document["columns"]
    mlclf.Run.open(tmp_path / "run").predict(str(tmp_path / "rows.parquet"), tmp_path / "scores")
    scores = pq.read_table(tmp_path / "scores")["score_y"].to_numpy()
    assert np.corrcoef(scores, share)[0, 1] > 0.9


def test_every_role_can_be_declared_and_names_families() -> None:
    assert set(get_args(Role)) == {*ROLES, "ignore"}
    for role in ROLES.values():
        assert set(role.families) | set(role.suggested_by) | set(role.second_families) <= set(FAMILY_NAMES)


def test_a_family_suggests_one_role() -> None:
    suggested = [family for role in ROLES.values() for family in role.suggested_by]
    assert len(set(suggested)) == len(suggested)
