"""A cache that is kept between fits is used for the same content, and refuses what was changed in place."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from made_tables import write
from safetensors.torch import load_file

import mlclf
from mlclf.errors import ConfigError

SETTINGS = {"optimizer.name": "adam", "training.epochs": 2, "optimizer.l2": 0.01, "runtime.memory_budget": "128KiB"}


def made(path: Path, *, turned: bool = False, more: int = 0) -> str:
    """Rows whose labels can be turned around without a change of size or footer."""
    random = np.random.default_rng(0)
    x = random.normal(size=(4000 + more, 3)).astype(np.float32)
    labels = random.random(len(x)) < 1 / (1 + np.exp(-3 * x[:, 0]))
    columns = {f"x{index}": x[:, index] for index in range(3)} | {"y": labels ^ turned}
    return write(path, pa.table(columns), use_dictionary=False, row_group_size=500)


def weight(data: str, out: Path, cache: object, **options: object) -> float:
    settings = SETTINGS | {"runtime.cache": str(cache)}
    mlclf.fit(data, "y", out, valid_fraction=0.2, settings=settings, **options)  # type: ignore[arg-type]  # columns
    return float(load_file(out / "model.safetensors")["linear.weight"][0, 0])


@pytest.mark.slow
def test_content_that_was_changed_in_place_is_refused(tmp_path: Path) -> None:
    cache, path = tmp_path / "the cache", tmp_path / "data" / "a.parquet"
    first = weight(made(path), tmp_path / "first", cache)
    footer = path.read_bytes()[-8:]
    assert weight(made(path), tmp_path / "again", cache) == first
    (of_first,) = cache.iterdir()
    made(path, turned=True)
    assert path.read_bytes()[-8:] == footer
    message = (
        f"{path}: has the size and the footer of the file that the cache in {cache} was made of, and other content: "
        f"was it changed in place, or is it damaged? Where the change is meant, remove what is cached of it: "
        f"rm -r '{of_first}'"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        weight(str(path), tmp_path / "turned", cache)
    assert not (tmp_path / "turned").exists()
    shutil.rmtree(of_first)
    turned = weight(str(path), tmp_path / "turned", cache)
    assert turned == weight(str(path), tmp_path / "without", "off")
    assert turned * first < 0


@pytest.mark.slow
def test_other_columns_and_other_files_have_a_cache_of_their_own(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    data = made(tmp_path / "a.parquet")
    weight(data, tmp_path / "all", cache)
    weight(data, tmp_path / "fewer", cache, exclude="x2")
    weight(made(tmp_path / "b.parquet", more=8), tmp_path / "other", cache)
    assert len(list(cache.iterdir())) == 3
