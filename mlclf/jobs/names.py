"""What all jobs share: how their data is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

Names = str | Sequence[str]
"""One name or several: files, folders, globs or URIs of data, or columns."""


def names_of(value: Names) -> list[str]:
    """The names, one by one."""
    return [str(value)] if isinstance(value, str | Path) else [str(item) for item in value]
