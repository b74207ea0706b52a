"""What a fit makes of columns that other programs write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_tables import document, plain_table, with_column, write

from mlclf import DataError, Run, fit

QUICK: dict[str, object] = {"optimizer.l2": 0.01}


def scores_of(run: Run, data: str, out: Path, label: str = "label_a") -> list[float]:
    run.predict(data, out)
    parts = [pq.ParquetFile(part).read() for part in sorted(out.rglob("*.parquet"))]
    return [float(score) for score in pa.concat_tables(parts).column(f"score_{label}").to_pylist()]


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_index_of_pandas_is_no_input(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = plain_table(300)
    order = np.argsort(table.column("label_a").to_numpy(), kind="stable")
    rank = np.empty(300, np.int64)
    rank[order] = np.arange(300)
    for name in ("__index_level_0__", "row"):
        frame = with_column(table, name, rank).replace_schema_metadata({"pandas": f'{{"index_columns": ["{name}"]}}'})
        data = write(tmp_path / f"{name}.parquet", frame)
        run = fit(data, "label_a", tmp_path / name, exclude=["id", "label_b"], settings=QUICK)
        assert f"column '{name}' is left out: it is the index of a pandas frame" in caplog.text
        assert name not in run.schema.feature_columns
        chosen = fit(data, "label_a", tmp_path / f"{name}-2", features=["a", name], settings=QUICK)
        assert chosen.schema.feature_columns == ("a", name)
        assert fit(data, "label_a", tmp_path / f"{name}-3", key=name, settings=QUICK).schema.key == name


def test_scoring_needs_only_what_the_model_uses(tmp_path: Path) -> None:
    table = plain_table(300)
    others = {
        "constant": [1.0] * 300, "same": ["x"] * 300, "nothing": pa.nulls(300), "name": [f"n{i}" for i in range(300)],
        "hollow": pa.array([[]] * 300, pa.list_(pa.string())), "struct": [{"a": 1}] * 300, "wordless": ["?"] * 300,
        "flat": pa.array([[1.0, 2.0]] * 300, pa.list_(pa.float32(), 2)), "raw": [b"x"] * 300,
    }  # fmt: skip
    whole = table
    for name, values in others.items():
        whole = with_column(whole, name, values)
    settings = QUICK | {"features.roles.wordless": "text"}
    run = fit(write(tmp_path / "a.parquet", whole), "label_*", tmp_path / "run", exclude="id", settings=settings)
    used = [name for name in table.column_names if name not in ("id", "label_b", "label_a")]
    full = scores_of(Run.open(tmp_path / "run"), str(tmp_path / "a.parquet"), tmp_path / "full")
    few = scores_of(run, write(tmp_path / "b.parquet", table.select(used)), tmp_path / "few")
    assert full == few
    assert run.evaluate(write(tmp_path / "c.parquet", table)) == run.evaluate(str(tmp_path / "a.parquet"))
    other = with_column(table, "constant", ["now text"] * 300)
    assert scores_of(run, write(tmp_path / "d.parquet", other), tmp_path / "other") == full


def sentences(rows: int) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(0)
    words = [f"word{index}" for index in range(200)]
    texts = [" ".join(rng.choice(words, 20)) for _ in range(rows)]
    return texts, np.array([int("word1 " in text) for text in texts])


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_free_text_is_read_as_text(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: pa.DataType) -> None:
    texts, labels = sentences(1500)
    data = write(tmp_path / "a.parquet", pa.table({"note": pa.array(texts).cast(kind), "y": labels}))
    run = fit(data, "y", tmp_path / "run", settings={"optimizer.l2": 0.001})
    assert caplog.text.count("column 'note' is read as text, by its words") == 1
    assert [column.role for column in run.schema.features] == ["text"]
    assert run.metrics is not None
    assert run.metrics["macro"]["auroc"] > 0.9
    settings = {"optimizer.l2": 0.001, "features.roles.note": "categorical"}
    with pytest.raises(DataError, match="column 'note' has 1,500 distinct values, nearly one a row"):
        fit(data, "y", tmp_path / "levels", settings=settings)


@pytest.mark.slow
@pytest.mark.parametrize("role", ["categorical", "text"])
def test_bytes_are_text_where_a_role_says_so(tmp_path: Path, role: str) -> None:
    table = plain_table(300)
    found = []
    for kind in (pa.string(), pa.binary(), pa.large_binary()):
        city = table.column("city").cast(kind)
        data = write(
            tmp_path / f"{kind}.parquet", with_column(table.drop_columns(["city"]), "city", city.combine_chunks())
        )
        run = fit(
            data, "label_*", tmp_path / f"run {kind}", exclude="id", settings=QUICK | {"features.roles.city": role}
        )
        found.append(scores_of(run, data, tmp_path / f"scores {kind}"))
        found.append(scores_of(run, str(tmp_path / "string.parquet"), tmp_path / f"scores of text {kind}"))
    assert all(scores == found[0] for scores in found)
    if role == "categorical":
        return
    bad = with_column(table.drop_columns(["city"]), "city", [b"\xff\xfe"] * 300)
    data = write(tmp_path / "bad.parquet", bad)
    with pytest.raises(DataError, match="column 'city' holds bytes that are no text in UTF-8"):
        fit(data, "label_*", tmp_path / "bad", exclude="id", settings=QUICK | {"features.roles.city": role})


@pytest.mark.slow
def test_labels_may_be_bytes(tmp_path: Path) -> None:
    table = plain_table(300)
    words = [b"yes" if value else b"no" for value in table.column("label_a").to_pylist()]
    data = write(tmp_path / "a.parquet", with_column(table, "label_a", words))
    run = fit(data, "label_a", tmp_path / "run", exclude=["id", "label_b"], settings=QUICK)
    same = fit(
        write(tmp_path / "b.parquet", table), "label_a", tmp_path / "same", exclude=["id", "label_b"], settings=QUICK
    )
    assert run.metrics == same.metrics


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_view(pa.float32())])
def test_a_declared_embedding_may_be_in_lists_of_one_length(tmp_path: Path, kind: pa.DataType) -> None:
    table = plain_table(300)
    vectors = np.random.default_rng(1).normal(size=(300, 4)).astype(np.float32).tolist()
    vectors[7] = None
    settings = QUICK | {"features.roles.e": "embedding"}
    found = []
    for name, each in (("lists", kind), ("fixed", pa.list_(pa.float32(), 4))):
        data = write(tmp_path / f"{name}.parquet", with_column(table, "e", pa.array(vectors, each)))
        run = fit(data, "label_*", tmp_path / name, exclude="id", settings=settings)
        found += [scores_of(run, str(tmp_path / f"{other}.parquet"), tmp_path / f"{name} {other}")
                  for other in ("lists", "fixed") if (tmp_path / f"{other}.parquet").exists()]  # fmt: skip
    for scores in found:
        np.testing.assert_allclose(scores, found[0], rtol=1e-5)  # float64 is scaled in more digits
    vectors[200] = [1.0]
    data = write(tmp_path / "uneven.parquet", with_column(table, "e", pa.array(vectors, kind)))
    message = "column 'e': every list of an embedding must have 4 elements, as the first one has, found one of 1; "
    with pytest.raises(DataError, match=message):
        fit(data, "label_*", tmp_path / "uneven", exclude="id", settings=settings)


@pytest.mark.slow
def test_labels_in_lists_of_0_and_1_are_those_of_columns(tmp_path: Path) -> None:
    table = plain_table(300)
    lists = np.stack([table.column(name).to_numpy() for name in ("label_a", "label_b")], 1).tolist()
    inputs = table.drop_columns(["label_a", "label_b"])
    columns = fit(write(tmp_path / "a.parquet", table), "label_*", tmp_path / "a", exclude="id", settings=QUICK)
    found = []
    for name, kind in (
        ("ints", pa.list_(pa.int64())),
        ("bools", pa.list_(pa.bool_())),
        ("fixed", pa.list_(pa.int8(), 2)),
    ):
        data = write(tmp_path / f"{name}.parquet", with_column(inputs, "y", pa.array(lists).cast(kind)))
        run = fit(data, "y", tmp_path / name, exclude="id", settings=QUICK)
        assert run.label_names == ("y[0]", "y[1]")
        opened = Run.open(tmp_path / name)
        assert opened.evaluate(data)["log_loss"] == columns.evaluate(str(tmp_path / "a.parquet"))["log_loss"]
        found.append(scores_of(opened, data, tmp_path / f"scores {name}", "y[0]"))
    assert found[0] == found[1] == found[2] == scores_of(columns, str(tmp_path / "a.parquet"), tmp_path / "scores")
