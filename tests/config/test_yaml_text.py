"""YAML within bounds: depth, number of values, bytes, anchors, each refused at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mlclf.config.loading import load_run_file
from mlclf.config.yaml_text import MOST_BYTES, MOST_LEVELS, MOST_VALUES, YamlText
from mlclf.errors import ConfigError

SECONDS = 15.0


def read(text: str) -> YamlText:
    return YamlText(text, (), lambda mark: "f" if mark is None else f"f:{mark.line + 1}")


def test_values_keep_the_text_that_was_written() -> None:
    found = read("a: 1e-4\nb: [no, ~, '', null, 'null', 12:30:00]\n? c\n: {d: }")
    assert found.value == {"a": "1e-4", "b": ["no", None, "", None, "null", "12:30:00"], "c": {"d": None}}
    assert found.sources == {("a",): "f:1", ("b",): "f:2", ("c",): "f:3", ("c", "d"): "f:4"}


@pytest.mark.parametrize("text", ["[", "{a: ", "- ", "? ", "- - ? "])
def test_depth_is_refused_at_once(text: str) -> None:
    started = time.monotonic()
    found = read(text * 100_000)
    assert found.value is None
    assert found.problems == [f"f:1: must be YAML of at most {MOST_LEVELS} levels, found more; remove brackets"]
    assert time.monotonic() - started < SECONDS


def test_as_deep_as_is_allowed() -> None:
    value = read("[" * MOST_LEVELS + "]" * MOST_LEVELS).value
    for _ in range(MOST_LEVELS - 1):
        (value,) = value
    assert value == []


@pytest.mark.slow
def test_many_values_are_refused() -> None:
    found = read("a: [" + "x," * (MOST_VALUES + 1) + "]")
    assert found.problems == [f"f:1: must hold at most {MOST_VALUES:,} values, found more; name many columns by a glob"]


def test_a_bomb_of_aliases_is_refused() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    found = read("\n".join(lines))
    assert found.value is None
    assert found.problems[0] == (
        "f:1: anchors and aliases are refused, found 'a0'; "
        "write the value out, or quote text that begins with '*' or '&'"
    )


def test_a_file_of_many_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text("#" * (MOST_BYTES + 1))
    message = "run.yaml: must be a YAML file, found a file of 8,388,609 bytes, more than 8,388,608; check the path"
    with pytest.raises(ConfigError) as caught:
        load_run_file(Path("run.yaml"))
    assert str(caught.value) == message


def test_a_setting_is_bounded_as_a_file_is() -> None:
    with pytest.raises(ConfigError) as caught:
        load_run_file(None, ["model.hidden=" + "[" * 50_000])
    assert str(caught.value) == "--set model.hidden: must be YAML of at most 32 levels, found more; remove brackets"
