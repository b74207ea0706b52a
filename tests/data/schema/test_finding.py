from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.data.arrow.families import family
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.planning import make_plan
from mlclf.data.schema.agreement import check_shards, drift
from mlclf.data.schema.finding import find_schema
from mlclf.data.schema.globs import matches, names_and_globs
from mlclf.data.schema.schema import Schema
from mlclf.errors import ConfigError, DataError, RunError

PAIR = {"values": pa.array([[0.5]], pa.list_(pa.float32())), "indices": pa.array([[3]])}


def plan_of(folder: Path, *tables: dict[str, Any]) -> Plan:
    for index, columns in enumerate(tables):
        pq.write_table(pa.table(columns), folder / f"{index}.parquet")
    return make_plan(str(folder))


def refused(kind: type[Exception], message: str) -> object:
    return pytest.raises(kind, match=f"^{re.escape(message)}$")


def test_roles_follow_from_the_types(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        {
            "i": [1],
            "b": [True],
            "d": [dt.date(2024, 1, 1)],
            "t": [dt.time(1)],
            "s": ["a"],
            "ls": pa.array(["a"], pa.large_string()),
            "dict": pa.array(["a"]).dictionary_encode(),
            "words": pa.array([["a"]], pa.large_list(pa.string())),
            "ids": [[1, 2]],
            "emb": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)),
            "x_indices": [[1]],
            "x_values": [[1.5]],
            **PAIR,
            "nothing": pa.nulls(1),
            "floats": [[1.5]],
            "flags": [[True]],
            "__index_level_0__": [0],
            "hollow": pa.array([[]], pa.list_(pa.null())),
            "struct": [{"a": 1}],
            "raw": [b"x"],
            "y": [1],
        },
    )
    schema = find_schema(plan, ["y"])
    assert {column.name: column.role for column in schema.features} == {
        **dict.fromkeys(("i", "b", "d", "t", "nothing"), "numeric"),
        **dict.fromkeys(("s", "ls", "dict"), "categorical"),
        **dict.fromkeys(("words", "ids"), "tokens"),
        **dict.fromkeys(("x_indices", "indices"), "sparse"),
        "emb": "embedding",
    }
    by_name = {column.name: column for column in schema.features}
    assert (by_name["emb"].width, by_name["indices"].values_column, by_name["x_indices"].values_column) == (
        2, "values", "x_values",
    )  # fmt: skip
    assert dict(schema.ignored) == {
        "floats": "column 'floats' is a list of floats; --set 'features.roles={\"floats\": \"embedding\"}' takes lists "
        "of one length as vectors, and a pair 'X_indices' and 'X_values' is sparse",
        "flags": "column 'flags' is a list of booleans; --set 'features.roles={\"flags\": \"embedding\"}' takes lists "
        "of one length as vectors",
        "__index_level_0__": "it is the index of a pandas frame; "
        '--set \'features.roles={"__index_level_0__": "numeric"}\' uses it',
        "hollow": "column 'hollow' has no list with an element",
        "struct": "column 'struct' has a type that cannot be an input",
        "raw": "column 'raw' holds bytes; if they are text in UTF-8, --set 'features.roles={\"raw\": \"categorical\"}' "
        "or text reads them",
    }
    assert set(schema.feature_columns) >= {"indices", "values", "x_values"}
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


def test_a_pair_needs_integers_and_numbers(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"indices": [["a"]], "values": [[1]], "z_indices": [1], "z_values": ["a"], "y": [1]})
    assert {column.name: column.role for column in find_schema(plan, ["y"]).features} == {
        "indices": "tokens", "values": "tokens", "z_indices": "numeric", "z_values": "categorical",
    }  # fmt: skip


def test_widths_encodings_and_nulls_mix_across_shards(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        {"n": [1], "s": ["a"], "w": pa.nulls(1), "l": pa.array([[]], pa.list_(pa.null())), "y": [1]},
        {"n": [1.5], "s": pa.array(["a"], pa.string_view()), "w": [["a"]], "l": [["b"]], "y": [True]},
        {"n": pa.array([1], pa.uint8()), "s": pa.array(["a"]).dictionary_encode(), "w": [[1]], "l": pa.nulls(1),
         "y": [0.0]},
    )  # fmt: skip
    assert [(column.name, column.role) for column in find_schema(plan, ["y"]).features] == [
        ("n", "numeric"), ("s", "categorical"), ("w", "tokens"), ("l", "tokens"),
    ]  # fmt: skip


def test_labels_features_and_exclude_are_names_or_globs(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {name: [1] for name in ("id", "label_b", "f1", "label_a", "f2", "w", "[x]")})
    schema = find_schema(plan, ["label_*"], exclude=["id"], weight="w")
    assert schema.labels == ("label_b", "label_a")
    assert [column.name for column in schema.features] == ["f1", "f2", "[x]"]
    chosen = find_schema(plan, ["label_a"], features=["f*", "[x]"])
    assert [column.name for column in chosen.features] == ["f1", "f2", "[x]"]
    assert [column.name for column in find_schema(plan, []).features] == [
        "id", "label_b", "f1", "label_a", "f2", "w", "[x]",
    ]  # fmt: skip


def test_globs_and_strange_names() -> None:
    assert matches("a\nb", "a*")
    assert matches("[x]", "[x]")
    assert not matches("Label", "label")


def test_declared_roles(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"code": [1], "note": ["a b"], "junk": [1], "y": [1]})
    schema = find_schema(plan, ["y"], roles={"code": "categorical", "n*": "text", "junk": "ignore"})
    assert [(column.name, column.role) for column in schema.features] == [("code", "categorical"), ("note", "text")]
    assert schema.ignored == (("junk", "declared as ignore"),)


def test_a_list_of_tags(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"tags": [["a"]], "x": [1], "y": [1]})
    schema = find_schema(plan, ["tags"])
    assert (schema.tags, schema.labels) == (True, ("tags",))


CONFIG_ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"labels": ["lable_*"]}, "--labels: no label matches 'lable_*'; the nearest columns are 'label_b', 'label_a'"),
    ({"labels": ["q"]}, "--labels: no label matches 'q'; the nearest columns are 'x', 's', 'label_a', 'label_b', 'l'"),
    ({"labels": ["label_a"], "exclude": ["zz"]},
     "--exclude: no column matches 'zz'; the nearest columns are 'x', 's', 'label_a', 'label_b', 'l'"),
    ({"labels": ["label_a"], "features": ["x", "label_a"]},
     ("a column cannot be a feature and a label, weight, key or group at once: 'label_a'; "
     "take it out of --features, or out of the other argument")),
    ({"labels": ["label_a"], "weight": "label_a"},
     "--weight: column 'label_a' is a label; name another column, or take it out of --labels"),
    ({"labels": ["label_a"], "weight": "weihgt", "group": "l", "other_columns": ["tiem"]},
     ("--weight: no column 'weihgt'; the nearest columns are 'x', 's', 'label_a', 'label_b', 'l'\n"
     "--group: column 'l' must hold numbers, strings or bytes, found lists of strings; name another column\n"
     "--valid-by: no column 'tiem'; the nearest columns are 'x', 's', 'label_a', 'label_b', 'l'")),
    ({"labels": ["label_a"], "weight": "s"},
     "--weight: column 's' must hold numbers, found strings; name another column"),
    ({"labels": ["label_a", "l"]},
     ("--labels takes label columns or one list column of labels, not both: 'l' is a list; "
     "name that column alone, or leave it out")),
    ({"labels": ["label_a"], "roles": {"x": "text"}},
     "column 'x' cannot be text: it holds numbers; correct features.roles, or convert the column"),
    ({"labels": ["label_a"], "features": ["struct"]},
     "column 'struct' has a type that cannot be an input"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), CONFIG_ERRORS)
def test_wrong_arguments(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    columns = {"x": [1], "s": ["a"], "label_a": [1], "label_b": [1], "l": [["t"]], "struct": [{"a": 1}]}
    with refused(ConfigError, message):
        find_schema(plan_of(tmp_path, columns), arguments.pop("labels"), **arguments)


def test_all_shards_that_differ_are_listed_at_once(tmp_path: Path) -> None:
    emb = pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))
    good = {"x": [1.5], "s": ["a"], "e": emb, **PAIR, "y": [1]}
    plan = plan_of(
        tmp_path,
        good,
        {name: column for name, column in good.items() if name not in ("x", "y")},
        good | {"x": ["a"], "e": pa.array([[1.0]], pa.list_(pa.float32(), 1)), "values": [["a"]], "y": ["no"]},
    )
    one, two = tmp_path / "1.parquet", tmp_path / "2.parquet"
    message = "\n".join(
        [
            f"{one}: column 'y' is missing",
            f"{one}: column 'x' is missing",
            f"{two}: column 'y' must be a label like in the other shards, got string",
            f"{two}: column 'x' must be numeric, got string",
            f"{two}: column 'e' must be embedding of 2, got fixed_size_list<element: float>[1]",
            f"{two}: column 'values' must be the values of a sparse pair, got list<element: string>",
            (
                "every shard must have the same columns in the same roles; "
                "mend these files, or write all of them anew with 'mlclf shuffle', "
                "which fills columns that a file lacks with nulls"
            ),
        ]
    )
    with refused(DataError, message):
        find_schema(plan, ["y"])


def test_labels_of_no_use(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"x": [1], "a": [dt.date(2024, 1, 1)], "b": [{"c": 1}]})
    path = tmp_path / "0.parquet"
    hint = "convert it where the data is written, or name another column with --labels"
    message = (
        f"label 'a' must be bool, numbers or strings, got date32[day] in {path}; {hint}\n"
        f"label 'b' must be bool, numbers or strings, got struct<c: int64> in {path}; {hint}"
    )
    with refused(DataError, message):
        find_schema(plan, ["a", "b"])


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    message = (
        "no column is left to learn from: every column is a label, excluded, or of a type that cannot be an input\n"
        "  'r': column 'r' holds bytes; if they are text in UTF-8, --set 'features.roles={\"r\": \"categorical\"}' or "
        "text reads them"
    )
    with refused(DataError, message):
        find_schema(plan_of(tmp_path, {"r": [b"x"], "y": [1]}), ["y"])


def test_new_data_is_checked_against_the_schema_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    schema = find_schema(plan_of(tmp_path / "old", {"x": [1], "s": ["a"], "y": [1]}), ["y"])
    new = plan_of(tmp_path / "new", {"x": ["a"], "more": [1]})
    path = tmp_path / "new" / "0.parquet"
    with refused(
        DataError,
        f"{path}: column 'x' must be numeric, got string\n{path}: column 's' is missing\n"
        "every shard must have the same columns in the same roles; "
        "mend these files, or write all of them anew with 'mlclf shuffle', "
        "which fills columns that a file lacks with nulls",
    ):
        check_shards(new, schema, with_labels=False)
    assert drift(new, schema) == ["more"]


def test_a_damaged_document() -> None:
    with refused(RunError, "schema.json is damaged (KeyError('features')); fit the run again"):
        Schema.from_json({"labels": []})


def test_families_of_types_that_are_not_inputs() -> None:
    kinds = [pa.struct([("a", pa.int8())]), pa.list_(pa.int8(), 0), pa.list_(pa.list_(pa.int8())),
             pa.list_(pa.date32())]  # fmt: skip
    assert {family(kind) for kind in kinds} == {"other"}


def test_a_glob_is_a_glob_where_a_column_is_called_so(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"x": [1], "label_*": [1], "label_a": [1], "label_b": [0], "f[0]": [1.0], "f0": [2.0]})
    schema = find_schema(plan, ["label_*"], features=["f[[]0]"], exclude=["x"])
    assert schema.labels == ("label_*", "label_a", "label_b")
    assert [column.name for column in schema.features] == ["f[0]"]
    assert names_and_globs(plan, "--labels", ["label_*", "label_a"]) == [
        (
            "--labels: 'label_*' is the name of a column, and a pattern that 'label_a' and 1 more match(es): all of "
            "them are taken; 'label_[*]' is the column alone"
        )
    ]
    assert names_and_globs(plan, "--features", ["f[[]0]", "f?"]) == []


def test_an_embedding_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"e": pa.nulls(1, pa.list_(pa.float32(), 5_000_000)), "x": [1.0], "y": [1]})
    message = (
        "column 'e': an embedding must have at most 4,194,304 elements, the schema says 5,000,000; write the file "
        "again, or leave the column out with --exclude"
    )
    with refused(DataError, message):
        find_schema(plan, ["y"])
    assert [column.name for column in find_schema(plan, ["y"], exclude=["e"]).features] == ["x"]
