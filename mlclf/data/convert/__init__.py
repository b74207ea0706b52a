"""Data sets written anew: converted, split, shuffled.

The names are imported when they are first used: conversion needs nothing of what the others do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlclf.data.convert.conversion import Converted, convert, convert_steps
    from mlclf.data.convert.shuffling import Shuffled, shuffle, shuffle_steps
    from mlclf.data.convert.splitting import SplitData, split, split_steps

_HOMES = {
    "conversion": ("Converted", "convert", "convert_steps"),
    "shuffling": ("Shuffled", "shuffle", "shuffle_steps"),
    "splitting": ("SplitData", "split", "split_steps"),
}

__all__ = [
    "Converted",
    "Shuffled",
    "SplitData",
    "convert",
    "convert_steps",
    "shuffle",
    "shuffle_steps",
    "split",
    "split_steps",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
