"""Text of messages: nothing steers a terminal, data are short, and commands are taken by a shell as they stand."""

from __future__ import annotations

import doctest
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as trying
from hypothesis import strategies as st

from mlclf import addresses, given_files, messages
from mlclf.errors import DataError, MlclfError, RunError
from mlclf.messages import LONGEST, command, cut, listed, quoted, safe, shortened, some_of, word
from mlclf.run_folder import RunFolder

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300) | st.sampled_from(
    [
        "\x1b[31mred",
        "\u202etxt",
        "it's",
        'a "b"',
        "a\nb",
        "\\",
        "$HOME `x`",
        "",
        "é" * 300,
        "'" * 250,
        "\x9b2J",
        "\u2066x",
    ]
)


@pytest.mark.parametrize("module", [messages, addresses, given_files])
def test_examples_of_the_docstrings(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]  # a module, passed as a parameter


@trying(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_shown_text_is_printable_and_short(text: str) -> None:
    for shown in (cut(text), quoted(text), some_of([text, text, text]), some_of([text] * 9)):
        assert shown.isprintable()
        assert len(shown) <= LONGEST + 20
    assert all(char.isprintable() or char == "\n" for char in safe(text))
    if len(text) < 40 and text.isprintable():
        assert cut(text) == text
        assert quoted(text) == repr(text)


@trying(max_examples=60, deadline=None)
@given(texts=st.lists(TEXTS.filter(lambda text: "\0" not in text), min_size=1, max_size=3))
def test_a_shell_takes_a_command_as_it_was_meant(texts: list[str]) -> None:
    line = command("printf", "%s\\0", *texts)
    assert all(char.isprintable() for char in line)
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert done.stdout.decode() == "".join(text + "\0" for text in texts)


def test_bytes_of_a_name_that_are_no_text_are_kept() -> None:
    name = b"a\xff b".decode(errors="surrogateescape")
    assert (
        subprocess.run(["bash", "-c", f"printf %s {word(name)}"], capture_output=True, check=True).stdout == b"a\xff b"
    )


def test_values_with_commas_between_them() -> None:
    assert some_of([]) == ""
    assert some_of(["a"]) == "'a'"
    assert some_of(range(5)) == "0, 1, 2 and 2 more"
    assert some_of(["x" * 500, "y"]).endswith("…' and 1 more")


def test_problems_one_a_line() -> None:
    assert listed(["a", "b"]) == "a\nb"
    assert listed([str(number) for number in range(1_014)]).splitlines()[-2:] == ["11", "… and 1,002 more"]


def test_long_data_in_a_message_are_cut_and_its_own_words_are_not() -> None:
    name = "c" * 5_000
    assert str(DataError(f"column {name!r} is missing")) == f"column '{'c' * 197}…' is missing"
    prose = "the footers' statistics and the file's pages, " * 20 + "say so"
    assert shortened(prose) == prose
    path = "/data/" + "/".join(["folder"] * 60)
    assert shortened(f"{path}: no such file; check the path") == f"{path}: no such file; check the path"
    assert len(shortened("x" * 5_000)) == LONGEST


def test_errors_are_safe_and_without_secrets() -> None:
    said = str(MlclfError("a\x1b[31m\u202e in s3://KEY:SECRET@bucket/a.parquet?secret_key=HIDDEN&region=eu-west-1\nb"))
    assert said == "a\\x1b[31m\\u202e in s3://bucket/a.parquet?region=eu-west-1\nb"


def test_the_command_that_a_run_suggests_is_quoted(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "my run; rm -r x")
    folder.path.mkdir()
    folder.file("config.yaml").write_text("")
    with pytest.raises(RunError) as caught:
        folder.opened()
    line = str(caught.value).partition("go on with: ")[2]
    assert shlex.split(line) == ["mlclf", "fit", "--resume", "--out", str(folder.path)]
