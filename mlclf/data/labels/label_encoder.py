"""The labels of a data set, whichever way they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlclf.data.labels.label_columns import LabelColumns
from mlclf.data.labels.tags import TagList
from mlclf.data.schema.label_lists import element_names
from mlclf.data.schema.schema import Schema

Labels = LabelColumns | TagList


def make_labels(schema: Schema, declared: Mapping[str, int | None], names: Sequence[str] | None = None) -> Labels:
    """The label encoder of a schema; `names` are the tags found when the run was fitted."""
    if schema.elements:
        column = schema.labels[0]
        return LabelColumns(element_names(column, schema.elements), dict(declared), list_column=column)
    if not schema.tags:
        return LabelColumns(schema.labels, dict(declared))
    tags = TagList(schema.labels[0])
    if names is not None:
        tags.set_names(names)
    return tags
