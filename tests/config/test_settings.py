from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import settings as trying
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from mlclf.config.loading import load_run_file
from mlclf.config.settings import Arguments, RunFile, Settings
from mlclf.errors import ConfigError, RunError


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that messages call run.yaml."""
    monkeypatch.chdir(tmp_path)
    return Path("run.yaml")


def loaded(file: Path, text: str, *sets: str) -> RunFile:
    file.write_text(text, encoding="utf-8")
    return load_run_file(file, sets)


def refused(file: Path, text: str, *sets: str) -> str:
    with pytest.raises(ConfigError) as error:
        loaded(file, text, *sets)
    return str(error.value)


def test_defaults_are_those_of_the_contract() -> None:
    arguments, settings = load_run_file(None)
    assert arguments == Arguments()
    assert settings == Settings()
    assert settings.model_dump() == {
        "data": {"where": None, "on_corrupt": "error", "label_values": {}, "label_lists": "auto"},
        "features": {
            "standardize": True,
            "knots": "auto",
            "roles": {},
            "vocabulary_levels": 100_000,
            "hash_limit": 1_000_000,
            "hash_buckets": 262_144,
        },
        "model": {"hidden": ()},
        "loss": {"pos_weight": "none"},
        "optimizer": {"name": "auto", "lr": None, "l2": "auto", "l1": 0.0},
        "training": {
            "epochs": None,
            "batch_rows": None,
            "seed": 0,
            "shuffle": True,
            "precision": "auto",
            "patience": 2,
        },
        "search": {"c_low": 1e-5, "c_high": 1e3, "steps_per_decade": 2},
        "thresholds": {"objective": "f1", "method": "auto"},
        "runtime": {"device": "auto", "threads": None, "memory_budget": 536_870_912, "cache": "auto"},
    }


def test_every_field_has_one_line_of_help() -> None:
    models: list[type[BaseModel]] = [Arguments, *(type(section) for _, section in Settings())]
    fields = [field for model in models for field in model.model_fields.values()]
    assert len(fields) == 12 + 31
    for field in fields:
        assert field.description
        assert "\n" not in field.description


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().optimizer.l1 = 3.0


def test_import_does_not_import_torch() -> None:
    code = "import sys, mlclf.config.settings; assert not {'torch', 'pyarrow', 'polars'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_file_is_a_whole_run_and_set_wins(file: Path) -> None:
    run = loaded(
        file,
        "train: [a.parquet, 'b/*.parquet']\nlabels: label_*\nfolds: 3\nkey: id\nout: runs/a\n"
        "optimizer:\n  name: adam\n  lr: 1e-2\nmodel:\n  # hidden: [3]\n",
        "optimizer.lr=1e-3",
        "exclude=*_raw",
        "model.hidden=[64, 32]",
    )
    assert run.arguments == Arguments(
        train=("a.parquet", "b/*.parquet"), labels=("label_*",), folds=3, key="id", out="runs/a", exclude=("*_raw",)
    )
    assert run.settings.optimizer.name == "adam"
    assert run.settings.optimizer.lr == 1e-3
    assert run.settings.model.hidden == (64, 32)


@pytest.mark.parametrize(
    ("text", "section", "field", "value"),
    [
        ("optimizer: {l2: 1e-4}", "optimizer", "l2", 1e-4),
        ("optimizer: {l2: auto}", "optimizer", "l2", "auto"),
        ("optimizer: {l2: 0}", "optimizer", "l2", 0.0),
        ("loss: {pos_weight: none}", "loss", "pos_weight", "none"),
        ("loss: {pos_weight: 3}", "loss", "pos_weight", 3.0),
        ("loss: {pos_weight: {no: 3, 7: 1.5}}", "loss", "pos_weight", {"no": 3.0, "7": 1.5}),
        ("training: {batch_rows: all}", "training", "batch_rows", "all"),
        ("training: {batch_rows: 4096}", "training", "batch_rows", 4096),
        ("training: {batch_rows: null}", "training", "batch_rows", None),
        ("training: {shuffle: no}", "training", "shuffle", False),
        ("training: {shuffle: on}", "training", "shuffle", True),
        ("runtime: {cache: off}", "runtime", "cache", "off"),
        ("runtime: {cache: 12:30:00}", "runtime", "cache", "12:30:00"),
        ("runtime: {cache: 'null'}", "runtime", "cache", "null"),
        ("runtime: {device: 'cuda:1'}", "runtime", "device", "cuda:1"),
        ("runtime: {memory_budget: 1048576}", "runtime", "memory_budget", 1 << 20),
        ("runtime: {memory_budget: 64 MiB}", "runtime", "memory_budget", 64 << 20),
        ("runtime: {memory_budget: 512MiB}", "runtime", "memory_budget", 512 << 20),
        ("runtime: {memory_budget: 1.5GiB}", "runtime", "memory_budget", 3 << 29),
        ("runtime: {memory_budget: 2GB}", "runtime", "memory_budget", 2_000_000_000),
        ("runtime: {memory_budget: 300kb}", "runtime", "memory_budget", 300_000),
        ("runtime: {memory_budget: 77B}", "runtime", "memory_budget", 77),
        ("data: {where: a > 3 AND b = 'no'}", "data", "where", "a > 3 AND b = 'no'"),
        (
            "data: {label_values: {yes: 1, no: 0, 1.0: 1, true: 1, ~: ~, '': null}}",
            "data",
            "label_values",
            {"yes": 1, "no": 0, "1.0": 1, "true": 1, "~": None, "": None},
        ),
        ("features: {roles: {2024-01-01: ignore, '*_id': categorical}}", "features", "roles", None),
    ],
)
def test_text_means_what_its_field_says(file: Path, text: str, section: str, field: str, value: object) -> None:
    found = getattr(getattr(loaded(file, text).settings, section), field)
    expected = {"2024-01-01": "ignore", "*_id": "categorical"} if field == "roles" else value
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("name", ["no", "2024", "1e3", "2024-01-01", "null_", "0x10", "12:30"])
def test_a_column_name_is_never_a_number_or_a_date(file: Path, name: str) -> None:
    assert loaded(file, f"labels: {name}\nexclude: [{name}]\nkey: {name}").arguments == Arguments(
        labels=(name,), exclude=(name,), key=name
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("data.where=city = 'a: #1'", "city = 'a: #1'"),
        ("data.where='quoted # text'", "quoted # text"),
        ("data.where=", None),
        ("data.where=~", None),
        ("data.where=null", None),
        ("data.where=a=b", "a=b"),
        ("data.where= no ", "no"),
        ('data.where="my column" > -1', '"my column" > -1'),
        ('data.where="a" IN (1, 2) AND "b" = \'x\'', '"a" IN (1, 2) AND "b" = \'x\''),
        ("data.where='2024-01-01' <= day", "'2024-01-01' <= day"),
        ("data.where='it''s' = name", "'it''s' = name"),
        ('data.where="my flag"', '"my flag"'),
        ('data.where="x > 0"', "x > 0"),
        ("data.where='\"my column\" > 0'", '"my column" > 0'),
        ('data.where="a \\"b\\" IS NULL"', 'a "b" IS NULL'),
    ],
)
def test_set_takes_text_as_it_stands(text: str, value: str | None) -> None:
    assert load_run_file(None, [text]).settings.data.where == value


def test_set_reaches_one_entry_of_a_mapping(file: Path) -> None:
    settings = loaded(
        file,
        "features:\n  roles: {zip: numeric, a: text}\nloss:\n  pos_weight: balanced\n",
        "features.roles.zip=categorical",
        "features.roles.a.b=tokens",
        "loss.pos_weight.spam=3",
        'data.label_values={"yes": 1, "n/a": null}',
    ).settings
    assert settings.features.roles == {"zip": "categorical", "a": "text", "a.b": "tokens"}
    assert settings.loss.pos_weight == {"spam": 3.0}
    assert settings.data.label_values == {"yes": 1, "n/a": None}


BROKEN = """\
train: {a: b}
optimizer:
  lr: fast
  lamda: 3
  l2: -1
training:
  epoch: 3
  patience: yes
  patience: 4
loss:
  pos_weight: {spam: -1, ham: 2, eggs: x}
modle: {hidden: [3]}
runtime: {memory_budget: 3XB, device: gpu}
features: {hash_buckets: 3, standardize: maybe}
search: 3
lr: 3
"""

PROBLEMS = """\
run.yaml:9: 'training.patience' must be given once, found again; remove one
--set 'abc' must have the form key=value, such as optimizer.l2=0.1
--set '=3' must have the form key=value, such as optimizer.l2=0.1
--set optimizer: names a section; set one of its keys: name, lr, l2, l1
run.yaml:1: train must be a name or a list of names or null, got {'a': 'b'}
run.yaml:14: features.standardize must be true or false, got 'maybe'
--set features.roles.c: features.roles must be a mapping of names to 'numeric', 'categorical', 'tokens', 'sparse', \
'embedding', 'text' or 'ignore', got 'cat' for 'c'
run.yaml:14: features.hash_buckets must be a power of two up to 2**31, got '3'
--set model.hidden: model.hidden must be a list of at most 100 whole numbers from 1 to 100,000, got ['3', '0']
run.yaml:11: loss.pos_weight must be 'none', 'balanced', 'sqrt', a number > 0 and <= 1e9 or a mapping of names to \
a number > 0 and <= 1e9, got '-1' for 'spam'
run.yaml:11: loss.pos_weight must be 'none', 'balanced', 'sqrt', a number > 0 and <= 1e9 or a mapping of names to \
a number > 0 and <= 1e9, got 'x' for 'eggs'
run.yaml:3: optimizer.lr must be a number > 0 and <= 1e9 or null, got 'fast'
run.yaml:5: optimizer.l2 must be 'auto' or a number >= 0 and <= 1e15, got '-1'
run.yaml:4: unknown setting 'optimizer.lamda'; known are name, lr, l2, l1
--set optimizer.l2.x: unknown setting 'optimizer.l2.x'; did you mean 'optimizer.l2'?
--set training.batch_rows: training.batch_rows must be 'all', a whole number >= 1 and < 2**31 or null, got '0'
run.yaml:8: training.patience must be a whole number >= 1 and < 2**31, got 'yes'
run.yaml:7: unknown setting 'training.epoch'; did you mean 'training.epochs'?
run.yaml:15: search must be a section with the keys c_low, c_high, steps_per_decade, got '3'
run.yaml:13: runtime.device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got 'gpu'
run.yaml:13: runtime.memory_budget must be bytes up to 2**50, such as '512MiB' or 536870912, got '3XB'
run.yaml:12: unknown setting 'modle'; did you mean 'model'?
run.yaml:16: unknown setting 'lr'; did you mean 'optimizer.lr'?"""


def test_all_problems_come_at_once_each_with_its_place(file: Path) -> None:
    sets = ["abc", "=3", "optimizer=adam", "features.roles.c=cat", "model.hidden=[3, 0]", "optimizer.l2.x=1"]
    found = refused(file, BROKEN, *sets, "training.batch_rows=0", "search.c_low=3")
    assert found == PROBLEMS


QUOTE = "; quote text with special characters"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b", "run.yaml: must hold lines of 'key: value', found ['a', 'b']; write such lines"),
        (
            "a: [1",
            "run.yaml:1: must be YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'"
            + QUOTE,
        ),
        (
            "a: 1\n---\nb: 2",
            "run.yaml:2: must be YAML: expected a single document in the stream, but found another document" + QUOTE,
        ),
        (
            "a: \x07",
            "run.yaml: must be YAML: unacceptable character #x0007: special characters are not allowed" + QUOTE,
        ),
        ("a: " + "[" * 600 + "]" * 600, "run.yaml:1: must be YAML of at most 32 levels, found more; remove brackets"),
        ("? [a]\n: 3", "run.yaml:1: a key must be text, found a list or a mapping; quote it"),
        (
            "a: &x 1\nb: *x",
            (
                "run.yaml:1: anchors and aliases are refused, found 'x'; "
                "write the value out, or quote text that begins with '*' or '&'\n"
                "run.yaml:2: anchors and aliases are refused, found 'x'; "
                "write the value out, or quote text that begins with '*' or '&'"
            ),
        ),
        (
            "a: 1\nb: !!str 3",
            "run.yaml:2: tags are refused, found 'tag:yaml.org,2002:str'; quote text that begins with '!'",
        ),
        (
            "nonsense_key: 1",
            (
                "run.yaml:1: unknown setting 'nonsense_key'; known are train, labels, valid, valid_fraction, valid_by, "
                "folds, columns, exclude, weight, key, group, out, data, features, model, loss, optimizer, training, "
                "search, thresholds, runtime"
            ),
        ),
        ("data: {where: [3]}", "run.yaml:1: data.where must be text or null, got ['3']"),
        (
            "optimizer: {name: sdg}",
            (
                "run.yaml:1: optimizer.name must be 'auto', 'lbfgs', 'newton', 'adam', 'adamw', "
                "'adagrad' or 'sgd', got 'sdg'"
            ),
        ),
        ("optimizer: {l1: nan}", "run.yaml:1: optimizer.l1 must be a number >= 0 and <= 1e15, got 'nan'"),
        ("optimizer: {lr: inf}", "run.yaml:1: optimizer.lr must be a number > 0 and <= 1e9 or null, got 'inf'"),
        ("training: {seed: -1}", "run.yaml:1: training.seed must be a whole number >= 0 and < 2**63, got '-1'"),
        (
            "training: {epochs: 1.5}",
            "run.yaml:1: training.epochs must be a whole number from 1 to 1,000,000 or null, got '1.5'",
        ),
        (
            "runtime: {memory_budget: 0}",
            "run.yaml:1: runtime.memory_budget must be bytes up to 2**50, such as '512MiB' or 536870912, got '0'",
        ),
        (
            "data: {label_values: {x: 2}}",
            "run.yaml:1: data.label_values must be a mapping of names to 0, 1 or null, got '2' for 'x'",
        ),
        ("folds: 1", "run.yaml:1: folds must be a whole number from 2 to 100 or null, got '1'"),
        ("valid_fraction: 1", "run.yaml:1: valid_fraction must be a number >= 0 and < 1 or null, got '1'"),
        ("valid_by: day", "run.yaml:1: valid_by must be 'time:COLUMN' or 'group:COLUMN' or null, got 'day'"),
        ("out: " + "x" * 99 + "\nkey: [a]", "run.yaml:2: key must be text or null, got ['a']"),
        ("key: [" + "x" * 99 + "]", "run.yaml:1: key must be text or null, got ['" + "x" * 76 + "…]"),
    ],
)
def test_what_a_file_must_not_hold(file: Path, text: str, message: str) -> None:
    assert refused(file, text) == message


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            ["optimizer.name=newton", "optimizer.l1=0.1"],
            (
                "--set optimizer.l1: optimizer.l1 must be 0 with optimizer.name 'newton', whose objective is smooth; "
                "choose lbfgs"
            ),
        ),
        (
            ["optimizer.name=lbfgs", "optimizer.lr=0.1"],
            (
                "--set optimizer.lr: optimizer.lr must be null with optimizer.name 'lbfgs', which finds its step; "
                "choose adam, adamw, adagrad or sgd"
            ),
        ),
        (
            ["optimizer.name=lbfgs", "training.batch_rows=10", "model.hidden=[3]"],
            (
                "--set training.batch_rows: training.batch_rows must be null or 'all' with optimizer.name 'lbfgs'; "
                "choose adam, adamw, adagrad or sgd\n"
                "--set model.hidden: model.hidden must be empty with optimizer.name 'lbfgs', for convex problems; "
                "choose adam, adamw, adagrad or sgd"
            ),
        ),
        (
            ["search.c_high=1e-6"],
            "--set search.c_high: search.c_low must be at most search.c_high, got 1e-05 and 1e-06; exchange them",
        ),
        (
            ["valid=x", "folds=3"],
            "--folds: folds cannot be given together with valid; keep one way to hold out rows",
        ),
        (
            ["data.where=[1"],
            (
                "--set data.where: must be YAML: while parsing a flow sequence, expected ',' or ']', but got "
                "'<stream end>'; quote text with special characters"
            ),
        ),
    ],
)
def test_rules_between_fields(sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=exactly(message)):
        load_run_file(None, sets)


def test_a_solver_takes_the_whole_set_as_one_batch() -> None:
    settings = load_run_file(None, ["optimizer.name=lbfgs", "training.batch_rows=all"]).settings
    assert settings.training.batch_rows == "all"


def test_true_is_not_a_number() -> None:
    with pytest.raises(ValidationError, match="true and false are not numbers"):
        Settings.model_validate({"training": {"patience": True}})


def test_rules_hold_without_a_file_too() -> None:
    with pytest.raises(ValidationError, match=r"optimizer\.lr must be null with optimizer\.name 'lbfgs'"):
        Settings.model_validate({"optimizer": {"name": "lbfgs", "lr": 1}})


def test_a_file_that_cannot_be_read(file: Path) -> None:
    with pytest.raises(ConfigError, match=exactly("run.yaml: must be a YAML file, found no such file; check the path")):
        load_run_file(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(
        ConfigError, match=exactly("run.yaml: must be a YAML file, found bytes that are not UTF-8; check the path")
    ):
        load_run_file(file)


@pytest.mark.parametrize("text", ["", "# nothing\n", "\ufefftraining:\n"])
def test_an_empty_file_gives_the_defaults(file: Path, text: str) -> None:
    assert loaded(file, text) == RunFile(Arguments(), Settings())


@pytest.mark.parametrize(("version", "shown"), [("2", "'2'"), ("", "null"), ("1.0", "'1.0'")])
def test_an_unknown_format_version_is_refused(file: Path, version: str, shown: str) -> None:
    message = (
        f"run.yaml holds settings of format_version {shown}, this release of mlclf reads 1; "
        "use the release that wrote it or write it again"
    )
    with pytest.raises(RunError, match=exactly(message)):
        loaded(file, f"format_version: {version}\nkey: a")


def test_yaml_begins_with_its_format_version() -> None:
    assert Settings().to_yaml().startswith("format_version: 1\ndata:\n  where: null\n")
    assert yaml.safe_load(Settings().to_yaml())["search"] == {"c_low": 1e-5, "c_high": 1000.0, "steps_per_decade": 2}


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=200) | st.sampled_from(["no", "~", "null", "1e3"])


@example(names=["\x85", "\u2028 a", "\r\n", " a "], roles={"\x85": "text"}, values={}, l2=1e-7, where="\ufeff")
@trying(max_examples=60, deadline=None)
@given(
    names=st.lists(NAMES, max_size=3),
    roles=st.dictionaries(NAMES, st.sampled_from(["text", "ignore"]), max_size=3),
    values=st.dictionaries(NAMES, st.sampled_from([0, 1, None]), max_size=3),
    l2=st.just("auto") | st.floats(0, 1e15),
    where=st.none() | NAMES,
)
def test_yaml_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], roles: object, values: object, l2: object, where: object
) -> None:
    settings = Settings.model_validate(
        {
            "features": {"roles": roles},
            "data": {"label_values": values, "where": where},
            "optimizer": {"l2": l2},
            "model": {"hidden": [3, 4]},
            "loss": {"pos_weight": {"a": 2}},
        }
    )
    run = RunFile(Arguments(labels=tuple(names), valid_fraction=0.25, group=where), settings)
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(run.to_yaml(), encoding="utf-8")
    assert load_run_file(path) == run
    path.write_text(settings.to_yaml(), encoding="utf-8")
    assert load_run_file(path) == RunFile(Arguments(), settings)
