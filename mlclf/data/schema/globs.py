"""Names of columns and patterns of them."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence
from glob import escape

from mlclf.data.parquet.plan import Plan
from mlclf.errors import ConfigError
from mlclf.messages import listed


def matched_names(names: Sequence[str], patterns: Iterable[str], what: str, flag: str) -> list[str]:
    """Columns that the names or globs pick, in schema order; a pattern that picks none is refused."""
    picked: set[str] = set()
    problems = []
    for pattern in patterns:
        hits = [name for name in names if matches(name, pattern)]
        if not hits:
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.5) or list(names[:5])
            problems.append(
                f"{flag}: no {what} matches {pattern!r}; the nearest columns are {', '.join(map(repr, near))}"
            )
        picked.update(hits)
    if problems:
        raise ConfigError(listed(problems))
    return [name for name in names if name in picked]


def names_and_globs(plan: Plan, flag: str, patterns: Iterable[str]) -> list[str]:
    """Say which patterns are the name of a column, and globs that match others too: all of these are taken."""
    names = list(dict.fromkeys(name for shard in plan.shards for name in shard.schema.names))
    lines = []
    for pattern in dict.fromkeys(patterns):
        others = [name for name in names if name != pattern and matches(name, pattern)]
        if pattern in names and others:
            more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
            lines.append(
                f"{flag}: {pattern!r} is the name of a column, and a pattern that {others[0]!r}{more} match(es): all "
                f"of them are taken; {escape(pattern)!r} is the column alone"
            )
    return lines


def matches(name: str, pattern: str) -> bool:
    """Whether a column name is the pattern, or matches it as a glob (case counts)."""
    return name == pattern or re.fullmatch(fnmatch.translate(pattern), name) is not None
