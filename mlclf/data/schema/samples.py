"""Rows looked at before columns have roles: which text is free text, how long lists are, which names are an index."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from mlclf.data.arrow.arrays import one_array
from mlclf.data.parquet.decoding import decode_unit
from mlclf.data.parquet.plan import Plan, Unit
from mlclf.data.parquet.shards import Shard
from mlclf.errors import CorruptDataError

SAMPLE_ROWS = 2048
SAMPLE_BYTES = 32 << 20
SAMPLE_GROUPS = 8
"""Rows are looked at in so many row groups, evenly spread over the data."""

LEAST_TEXTS, LEAST_DOCUMENTS = 100, 8
"""Of fewer values, or of fewer of DOCUMENT_WORDS words, it is not told whether they are free text."""

DOCUMENT_WORDS = 100
LONGEST = 4096
"""Characters of a text that are looked at."""

DISTINCT_SHARE, LONG_DISTINCT_SHARE = 0.9, 0.5
LONG_WORDS = 5
"""Texts of so many words may repeat more often than shorter ones."""

SHARED_SHARE = 1 / 3
"""Of the words of free text at least so many are in another row too, which those of identifiers are not."""

_WORD = re.compile(r"[^\W_][\w]+")


def free_texts(plan: Plan, names: Sequence[str]) -> list[str]:
    """Those of the columns of text whose rows nearly all differ, and share words: sentences, addresses, titles."""
    if not names:
        return []
    found: dict[str, list[str]] = {name: [] for name in names}
    for table in _sample(plan, names):
        for name in table.column_names:
            with suppress(UnicodeDecodeError):  # reported by whoever reads all rows
                found[name] += [text[:LONGEST] for text in table.column(name).to_pylist() if isinstance(text, str)]
    return [name for name, texts in found.items() if is_free_text(texts)]


def is_free_text(texts: Sequence[str]) -> bool:
    """Whether values are text to be read by its words, and not levels of a category or identifiers.

    >>> is_free_text([f"order {number} has arrived, thanks" for number in range(200)])
    True
    >>> is_free_text([f"{number:032x}" for number in range(200)])
    False
    """
    if not texts:
        return False
    distinct = set(texts)
    words = [set(_WORD.findall(text.lower())) for text in distinct]
    counts = Counter(word for each in words for word in each)
    total = sum(counts.values())
    share, mean = len(distinct) / len(texts), total / len(distinct)
    if len(texts) < (LEAST_DOCUMENTS if mean >= DOCUMENT_WORDS else LEAST_TEXTS):
        return False
    if share < (LONG_DISTINCT_SHARE if mean >= LONG_WORDS else DISTINCT_SHARE) or mean < 2:
        return False
    return sum(count for count in counts.values() if count > 1) >= SHARED_SHARE * total


def list_width(plan: Plan, name: str) -> int:
    """Elements of the first list of a column that is neither null nor empty; 0 where there is none."""
    for unit in plan.units:
        for table, _ in pieces_of(plan, unit, [name]):
            array = one_array(table.column(name))
            longest = None if pa.types.is_null(array.type) else pc.max(pc.list_value_length(array)).as_py()
            if longest:
                return int(longest)
    return 0


def index_columns(shards: Sequence[Shard]) -> set[str]:
    """Columns that are the index of a pandas frame: by what pandas wrote beside the schema, or by their name."""
    names = {name for shard in shards for name in shard.schema.names if name.startswith("__index_level_")}
    for text in {(shard.schema.metadata or {}).get(b"pandas") for shard in shards} - {None}:
        names |= set(_indices(text or b""))
    return names


def _indices(text: bytes) -> Iterator[str]:
    try:
        found = json.loads(text)["index_columns"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return
    if isinstance(found, list):
        yield from (name for name in found if isinstance(name, str))  # a range is described by a mapping


def _sample(plan: Plan, names: Sequence[str]) -> Iterator[pa.Table]:
    """Up to SAMPLE_ROWS rows, the first ones of SAMPLE_GROUPS row groups."""
    groups = [group for unit in plan.units for group in plan.groups_of(unit.first_row, unit.rows)]
    chosen = groups[:: -(-len(groups) // SAMPLE_GROUPS)]
    for group in chosen:
        unit = Unit(group.shard, (group.index,), group.rows, group.first_row, plan.shards[group.shard].row_bytes)
        rows = min(SAMPLE_ROWS, SAMPLE_BYTES / max(1.0, unit.row_bytes)) / len(chosen)
        for table, _ in islice(pieces_of(plan, unit, names, max(1, int(rows))), 1):
            yield table


def pieces_of(plan: Plan, unit: Unit, names: Sequence[str], rows: int = SAMPLE_ROWS) -> Iterator[tuple[pa.Table, str]]:
    """Pieces of a unit with their places, of the columns that its file has.

    What is damaged ends it, and is reported by whoever reads all rows.
    """
    held = [name for name in names if name in plan.shards[unit.shard].schema.names]
    try:
        for first_row, table in decode_unit(plan, unit, held, rows) if held else ():
            yield table, plan.locate(first_row)
    except CorruptDataError:
        return
