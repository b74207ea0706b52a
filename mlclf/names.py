"""How data and columns are named from Python: one name or several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from mlclf.errors import ConfigError

Names = str | Path | Iterable[str | Path]
"""One name or several: files, folders, globs or URIs of data, or columns."""


def names_of(value: Names, what: str = "data") -> list[str]:
    """The names, one by one.

    >>> names_of("a.parquet"), names_of(["a", "b"])
    (['a.parquet'], ['a', 'b'])

    Args:
        value: a name or several; a table, a frame or a mapping is no list of names, though it yields some.
        what: the argument, for the message: "data", or one that names columns.

    Raises:
        ConfigError: something else came, such as a table in memory.
    """
    if isinstance(value, str | Path):
        return [str(value)]
    is_table = (
        isinstance(value, Mapping | bytes) or hasattr(type(value), "columns") or hasattr(type(value), "column_names")
    )
    items = list(value) if isinstance(value, Iterable) and not is_table else [None]
    if all(isinstance(item, str | Path) for item in items):
        return [str(item) for item in items]
    meant = "files, folders, globs or URIs" if what == "data" else "columns or globs"
    hint = "write it to a Parquet file and give its path" if what == "data" else "give columns of the data by name"
    raise ConfigError(f"{what} must be a name or a list of names of {meant}, got {_kind(value)}; {hint}")


def _kind(value: object) -> str:
    """The type as its users call it: ``a DataFrame of polars``, ``an array of numpy``, ``a dict``."""
    kind = type(value)
    library = kind.__module__.partition(".")[0]
    name = "array" if kind.__name__ == "ndarray" else kind.__name__
    article = "an" if name[:1].lower() in "aeiou" else "a"
    return f"{article} {name}" if library == "builtins" else f"{article} {name} of {library}"
