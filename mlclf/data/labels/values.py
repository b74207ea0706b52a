"""What the values of labels mean: 0 and 1, −1 and 1, words in pairs, and what `data.label_values` declares."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence

NUMBER_TEXTS: Mapping[str, tuple[int, str]] = {"0": (0, "zero"), "1": (1, ""), "-1": (0, "minus")}
"""Text of a number → code, kind."""

WORD_PAIRS = (("no", "yes"), ("n", "y"), ("false", "true"), ("f", "t"))

BOOLEANS = ("false", "true")
MOST_SHOWN = 5
LONGEST_SHOWN = 40
LONGEST_EXAMPLE = 200


def known_code(value: str) -> tuple[int | None, str]:
    """(code, kind) of a text whose meaning is not declared; code None where it has none."""
    if value in NUMBER_TEXTS:
        return NUMBER_TEXTS[value]
    for pair in WORD_PAIRS:
        if value.lower() in pair:
            return pair.index(value.lower()), "/".join(pair)
    return None, ""


def declared_key(
    declared: Iterable[str], value: str, *, is_number: bool = False, is_boolean: bool = False
) -> str | None:
    """The declared text that a value is: the same text, the same number, or the same truth.

    Args:
        is_number: the column holds numbers, so that 1.0 is 1.
        is_boolean: the column holds booleans, whose values are "0" and "1" here; "True" is one of them.
    """
    keys = list(declared)
    if value in keys:
        return value
    if is_boolean:
        truth = BOOLEANS[int(value)]
        keys = sorted(keys, key=lambda key: key.casefold() != truth)
        if keys and keys[0].casefold() == truth:
            return keys[0]
    if is_number or is_boolean:
        number = _number(value)
        return next((key for key in keys if number is not None and _number(key) == number), None)
    return None


def refusal(name: str, unknown: Sequence[str], known: Mapping[str, int | None], where: str) -> str:
    """The message for values without a meaning.

    Args:
        unknown: the values, as text.
        known: the other values of the column, with their codes.
    """
    values = sorted(unknown, key=_order)
    shown = ", ".join(repr(_cut(value)) for value in values[:MOST_SHOWN])
    more = f" and {len(values) - MOST_SHOWN:,} more" if len(values) > MOST_SHOWN else ""
    lists = "; classes and tags are to be in a column of lists" if len(values) + len(known) > 3 else ""
    return (
        f"{where}: label {name!r} must be 0, 1 or null, found {shown}{more}; "
        f"say what the values mean, {such_as(example(values[:MOST_SHOWN], known))} "
        f"(0, 1, or null for not observed){lists}"
    )


def example(unknown: Sequence[str], known: Mapping[str, int | None]) -> dict[str, int | None]:
    """A meaning for each unknown value, that can be taken as it stands: there is a 0 and a 1 among all, once pasted."""
    codes = {code for code in known.values() if code is not None}
    values = sorted((value for value in unknown if value.strip()), key=_order)
    blank = dict.fromkeys(value for value in unknown if not value.strip())
    if codes >= {0, 1} or not values:
        return blank | dict.fromkeys(values)
    numbers = [number for number in map(_number, values) if number is not None]
    if set(known) == {"1"} and len(numbers) == len(values) and min(numbers) > 1:
        values, codes = ["1", *values], set()  # 1 and 2: the lower one is the negative
    meanings: dict[str, int | None] = dict.fromkeys(values)
    if len(codes) == 1:
        meanings[values[-1]] = 1 - codes.pop()
    else:
        meanings[values[-1]] = 1
        if len(values) > 1:
            meanings[values[0]] = 0
    return blank | meanings


def such_as(meanings: Mapping[str, int | None]) -> str:
    """How to declare meanings, as a part of a sentence."""
    text = json.dumps(dict(meanings), ensure_ascii=False)
    if len(text) > LONGEST_EXAMPLE or not text.isprintable():
        return "under data.label_values in a file for --config"
    return f"such as --set {shlex.quote('data.label_values=' + text)}"


def mixed_example(codes: Mapping[str, int]) -> dict[str, int | None]:
    """The words of several pairs with their meanings, of which one at least is 0 and one 1."""
    words = sorted(codes)
    if len(set(codes.values())) > 1 or len(words) < 2:
        return {word: codes[word] for word in words}
    return {word: int(word == words[-1]) for word in words}


def nothing_matches(unmet: Sequence[str], met: Iterable[str]) -> str:
    """The message for declared values that no row holds."""
    values = sorted(met, key=_order)
    found = ", ".join(repr(_cut(value)) for value in values[:MOST_SHOWN]) or "none"
    missing = ", ".join(repr(_cut(value)) for value in unmet[:MOST_SHOWN])
    return (
        f"data.label_values: every value must be one of the labels', found {missing} in no row that was read; "
        f"the labels hold {found}: write the values as the data has them, or leave them out"
    )


def is_near(value: str, others: Iterable[str]) -> bool:
    """Whether a value differs from one of others in case and space alone, or is the same number."""
    number = _number(value)
    return any(
        value.strip().casefold() == other.strip().casefold() or (number is not None and number == _number(other))
        for other in others
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _order(text: str) -> tuple[bool, float, str]:
    """Numbers by size, then texts."""
    number = _number(text)
    is_text = number is None or math.isnan(number)
    return is_text, 0.0 if is_text else float(number or 0.0), text


def _cut(value: str) -> str:
    return value if len(value) <= LONGEST_SHOWN else value[: LONGEST_SHOWN - 1] + "…"
