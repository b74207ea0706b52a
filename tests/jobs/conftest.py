"""One finished run that tests read and never change."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from made_tables import plain_table, write

import mlclf


class Fitted(NamedTuple):
    """Data, the run fitted on it, and data that it has not seen."""

    data: str
    run: Path
    test: str


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    folder = tmp_path_factory.mktemp("fitted")
    data = write(folder / "train" / "a.parquet", plain_table(400), row_group_size=150)
    test = write(folder / "test" / "b.parquet", plain_table(300, seed=1), row_group_size=100)
    mlclf.fit(data, "label_*", folder / "run", key="id")
    return Fitted(data, folder / "run", test)
