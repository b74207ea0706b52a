"""The Mulan ARFF of bibtex, and libsvm and XMC text written from it, give the rows that the Parquet files hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.data.convert import convert

HERE = Path(__file__).resolve()
BIBTEX = next(
    (found for up in HERE.parents for base in (up, up / "shared", Path("/work/shared"))
     if (found := base / "data" / "bibtex").is_dir()), None,
)  # fmt: skip
pytestmark = pytest.mark.skipif(BIBTEX is None, reason="the bibtex data set is not here")


def rows_of(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])


@pytest.mark.parametrize("part", ["train", "test"])
def test_every_way_gives_the_same_rows_and_labels(tmp_path: Path, part: str) -> None:
    assert BIBTEX is not None
    expected = pq.read_table(BIBTEX / f"{part}.parquet")
    raw = BIBTEX / "raw"
    convert(raw / f"bibtex-{part}.arff", tmp_path / "arff", labels_xml=raw / "bibtex.xml")
    found = rows_of(tmp_path / "arff")
    assert found.schema.names[:2] == ["indices", "values"]
    assert sorted(found.schema.names) == sorted(expected.schema.names)
    assert found.select(expected.schema.names).schema.types == expected.schema.types
    assert found.select(expected.schema.names).to_pydict() == expected.to_pydict()

    names = expected.schema.names[2:]
    labels = np.stack([expected.column(name).to_numpy() for name in names], 1)
    for kind, first in (("libsvm", 1), ("xmc", 0)):
        lines = [f"{expected.num_rows} 1836 {len(names)}"] if kind == "xmc" else []
        for indices, values, row in zip(*(expected.column(i).to_pylist() for i in (0, 1)), labels, strict=True):
            tags = ",".join(map(str, np.flatnonzero(row)))
            lines.append(" ".join([tags, *(f"{i + first}:{v:g}" for i, v in zip(indices, values, strict=True))]))
        path = tmp_path / f"text.{kind}"
        path.write_text("\n".join(lines) + "\n")
        convert(path, tmp_path / kind)
        found = rows_of(tmp_path / kind)
        assert found.select([0, 1]).to_pydict() == expected.select([0, 1]).to_pydict()
        assert found.column("labels").to_pylist() == [[str(tag) for tag in np.flatnonzero(row)] for row in labels]
