"""Types of settings: the values that each accepts, and their description in error messages."""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

SettingsModel = TypeVar("SettingsModel", bound=BaseModel)
SettingPath = tuple[str, ...]


class Says(NamedTuple):
    """What a value must be, in the words of an error message."""

    text: str


def _refuse_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("true and false are not numbers")
    return value


def _bytes_from_text(value: object) -> object:
    """Return 536870912 for "512 MiB"; whatever is not so written is left for the field to judge."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([kmgt]i?)?b?", str(value).strip().lower())
    if not isinstance(value, str) or match is None:
        return value
    prefix = match[2] or ""
    base = 1024 if prefix.endswith("i") else 1000
    return int(float(match[1]) * base ** " kmgt".index(prefix[:1] or " "))


def _label_value(value: object) -> object:
    return {"0": 0, "1": 1}.get(value, value) if isinstance(value, str) else value


def _names(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError("not a power of two")
    return value


_NotBool = BeforeValidator(_refuse_bool)
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False), _NotBool, Says("a number > 0 and <= 1e9")]
Penalty = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False), _NotBool, Says("a number >= 0 and <= 1e15")]
Strength = Annotated[
    float, Field(ge=1e-15, le=1e15, allow_inf_nan=False), _NotBool, Says("a number from 1e-15 to 1e15")
]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), _NotBool, Says("a number >= 0 and < 1")]
Count = Annotated[int, Field(ge=1, le=2**31 - 1), _NotBool, Says("a whole number >= 1 and < 2**31")]
Few = Annotated[int, Field(ge=1, le=1_000), _NotBool, Says("a whole number from 1 to 1,000")]
Epochs = Annotated[int, Field(ge=1, le=1_000_000), _NotBool, Says("a whole number from 1 to 1,000,000")]
Folds = Annotated[int, Field(ge=2, le=100), _NotBool, Says("a whole number from 2 to 100")]
Seed = Annotated[int, Field(ge=0, lt=2**63), _NotBool, Says("a whole number >= 0 and < 2**63")]
Width = Annotated[int, Field(ge=1, le=100_000), _NotBool]
Widths = Annotated[
    tuple[Width, ...], Field(max_length=100), Says("a list of at most 100 whole numbers from 1 to 100,000")
]
Buckets = Annotated[
    int, Field(ge=1, le=2**31), AfterValidator(_power_of_two), _NotBool, Says("a power of two up to 2**31")
]
Bytes = Annotated[
    int,
    Field(ge=1, le=2**50),
    BeforeValidator(_bytes_from_text),
    _NotBool,
    Says("bytes up to 2**50, such as '512MiB' or 536870912"),
]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$"), Says("'auto', 'cpu', 'cuda' or 'cuda:N'")]
Names = Annotated[tuple[str, ...], BeforeValidator(_names), Says("a name or a list of names")]
ValidBy = Annotated[str, Field(pattern=r"^(time|group):(.|\n)+$"), Says("'time:COLUMN' or 'group:COLUMN'")]
Label = Annotated[Literal[0, 1] | None, BeforeValidator(_label_value)]
Role = Literal["numeric", "categorical", "tokens", "sparse", "embedding", "text", "ignore"]
