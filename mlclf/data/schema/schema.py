"""The schema of a fit: the role of every column."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mlclf.data.features.fitted_column import FeatureColumn
from mlclf.errors import RunError

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Schema:
    """Which column plays which part.

    Attributes:
        features: the inputs, in schema order.
        labels: label columns in schema order, or the one list column of tags.
        tags: whether `labels` is a list column of tags.
        ignored: columns left out, with the reason.
        elements: labels of the one column of `labels` whose lists have a 0 or 1 for each; 0 for other labels.
        notes: what was found of columns and is worth saying, one line each; not kept in a run.
    """

    features: tuple[FeatureColumn, ...]
    labels: tuple[str, ...]
    tags: bool = False
    weight: str | None = None
    key: str | None = None
    group: str | None = None
    ignored: tuple[tuple[str, str], ...] = ()
    elements: int = 0
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def feature_columns(self) -> tuple[str, ...]:
        names = [[column.name, column.values_column] for column in self.features]
        return tuple(name for pair in names for name in pair if name is not None)

    def without(self, names: Container[str | None]) -> Schema:
        """The schema with inputs left out."""
        return replace(self, features=tuple(column for column in self.features if column.name not in names))

    def to_json(self) -> dict[str, Any]:
        return {"format_version": FORMAT_VERSION} | {k: v for k, v in asdict(self).items() if k != "notes"}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Schema:
        try:
            fields = {key: value[key] for key in value if key not in ("format_version", "label_names")}
            fields["features"] = tuple(FeatureColumn(**column) for column in value["features"])
            fields["labels"] = tuple(value["labels"])
            fields["ignored"] = tuple((name, why) for name, why in value["ignored"])
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"schema.json is damaged ({error!r}); fit the run again") from error
