"""Labels in one column of lists of 0 and 1, all of one length: element k of each list is label k."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlclf.data.arrow.arrays import as_floats, one_array
from mlclf.data.parquet.plan import Plan
from mlclf.data.schema.samples import list_width, pieces_of
from mlclf.errors import ConfigError, DataError

AUTO, TAGS, ELEMENTS = "auto", "tags", "elements"
"""What lists hold: found from their values, tags, or a 0 or 1 for each label."""

SPECIAL = (-1, -100)
"""Beside 0 and 1: negative, or not observed; what they mean is to be declared where lists hold both."""

SETTING = "data.label_lists"


def num_elements(plan: Plan, name: str, kind: str, how: str) -> int:
    """Labels of a list column of which each list has an element for each; 0 where its lists are of tags.

    Lists of booleans, of floats and of a fixed size hold no tags. Lists of integers do, unless all have one length and
    hold 0 and 1 alone, or −1 and 1, or −1 and −100 beside 0 and 1: the whole column is looked at, up to the first list
    that is otherwise.

    Args:
        kind: the family of the column.
        how: AUTO, TAGS or ELEMENTS, the last two where the values leave it open.

    Raises:
        ConfigError: the values cannot be what `how` says.
        DataError: there is no list with an element, or the lists are neither tags nor elements.
    """
    may_be_tags = kind in ("strings", "integers", "empty")
    if how == TAGS and not may_be_tags:
        raise ConfigError(f"{SETTING}=tags: tags are text or integers, and column {name!r} holds neither; leave it out")
    if how == ELEMENTS and kind == "strings":
        raise ConfigError(f"{SETTING}=elements: elements are 0 and 1, and column {name!r} holds text; leave it out")
    if how == TAGS or kind in ("strings", "empty"):
        return 0
    if kind.startswith("vector:"):
        return int(kind.removeprefix("vector:"))
    width = _common_length(plan, name) if may_be_tags and how == AUTO else list_width(plan, name)
    if not width and not (may_be_tags and how == AUTO):
        raise DataError(f"column {name!r} has no list with an element; name another column with --labels")
    return width


def _common_length(plan: Plan, name: str) -> int:
    """The length of all lists of a column of integers that can be but elements; else 0.

    Raises:
        DataError: 0 and 1 repeat in lists of different lengths, which is neither.
    """
    lengths: set[int] = set()
    found: set[int] = set()
    repeats = False
    for unit in plan.units:
        for table, place in pieces_of(plan, unit, [name]):
            array = one_array(table.column(name))
            if pa.types.is_null(array.type):
                continue
            array = array.drop_null()
            elements = array.flatten()
            found |= {value for value in pc.unique(elements)[:5].to_pylist() if value is not None}
            if not found <= {0, 1, *SPECIAL}:
                return 0
            sizes = pc.value_counts(pc.list_value_length(array))
            lengths |= set(sizes.field("values").to_pylist())
            repeats = repeats or max(lengths, default=0) > 2
            if len(lengths) > 1 and not repeats:
                return 0
            if len(lengths) > 1:
                raise DataError(
                    f"{place}: column {name!r} has lists of 0 and 1 with {min(lengths)} and with {max(lengths)} "
                    "elements: elements that are labels must be as many in each list, and tags are in a list once; "
                    f"write one column a label, or say that these are tags with --set {SETTING}=tags"
                )
    width = lengths.pop() if lengths and found else 0
    is_plain = found <= {0, 1} or found <= {-1, 1}
    return width if is_plain or ({0, 1} <= found and width > 1) else 0


def element_names(name: str, width: int) -> tuple[str, ...]:
    """Names of the labels of such a column.

    >>> element_names("y", 2)
    ('y[0]', 'y[1]')
    """
    return tuple(f"{name}[{index}]" for index in range(width))


def spread(table: pa.Table, name: str, names: Sequence[str], where: str) -> pa.Table:
    """A column of numbers for each label, null where an element or the whole list is.

    Raises:
        DataError: a list has not as many elements as there are labels.
    """
    array, width = one_array(table.column(name)), len(names)
    values = np.full((width, table.num_rows), np.nan, np.float32)
    if not pa.types.is_null(array.type):
        present = ~array.is_null().to_numpy(zero_copy_only=False)
        lengths = pc.list_value_length(array).drop_null()
        wrong = pc.not_equal(lengths, width)
        if pc.any(wrong).as_py():
            raise DataError(
                f"{where}: column {name!r} must have lists of {width} labels, "
                f"found one of {lengths.filter(wrong)[0].as_py()}; make them of one length, null for not observed"
            )
        values[:, present] = as_floats(array.drop_null().flatten()).reshape(-1, width).T
    return pa.table([pa.array(column) for column in values], names=list(names))
