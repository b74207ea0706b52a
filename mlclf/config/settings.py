"""The tree of validated settings, every default, and the YAML that fills it.

YAML is read as text: every scalar but a plain null keeps the characters that were written, and the field that receives
it decides what they mean: ``1e-4`` is a number for a rate, ``no`` can name a column, ``12:30:00`` stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from mlclf.addresses import without_secrets
from mlclf.config.fields import (
    Buckets,
    Bytes,
    Count,
    Device,
    Epochs,
    Few,
    Folds,
    Fraction,
    Label,
    Names,
    Penalty,
    Positive,
    Role,
    Seed,
    SettingsModel,
    Strength,
    ValidBy,
    Widths,
)
from mlclf.config.optimizers import AUTO, OPTIMIZERS, OptimizerName

FORMAT_VERSION = 1

MOST_STRENGTHS = 1_000
"""Values of C in a search: each is a model."""


def setting(default: Any, description: str) -> Any:
    """A field with its default and one line of help."""
    return Field(default=default, description=description)


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(Section):
    """Which rows are read, and what a label's values mean."""

    where: str | None = setting(None, "SQL expression that a row must satisfy to be used")
    on_corrupt: Literal["error", "skip"] = setting("error", "what to do with a damaged row group")
    label_values: dict[str, Label] = setting({}, "text of a label's value -> 0, 1 or null (not observed)")
    label_lists: Literal["auto", "tags", "elements"] = setting(
        "auto", "what a list column of labels holds: tags, or a 0 or 1 for each label"
    )


class Features(Section):
    """How columns become inputs."""

    standardize: bool = setting(True, "scale numeric and embedding columns to mean 0 and deviation 1")
    knots: Literal["auto", "none"] = setting(
        "auto", "auto: linear splines for numeric columns in memory, kept where held-out rows gain"
    )
    roles: dict[str, Role] = setting({}, "column name or glob -> role, where the one found is wrong")
    vocabulary_levels: Count = setting(100_000, "most frequent levels kept per column, the rest is 'other'")
    hash_limit: Count = setting(1_000_000, "distinct strings in a column beyond which it is hashed")
    hash_buckets: Buckets = setting(1 << 18, "buckets of a hashed column, a power of two")


class Model(Section):
    """The shape of the model."""

    hidden: Widths = setting((), "widths of hidden layers; none is the linear model")


class Loss(Section):
    """What training minimizes."""

    pos_weight: Literal["none", "balanced", "sqrt"] | Positive | dict[str, Positive] = setting(
        "none", "weight of positives: a rule, one number, or label -> number"
    )


class Optimizer(Section):
    """How it is minimized."""

    name: OptimizerName = setting(
        AUTO,
        "auto chooses by the size of the problem; newton is lbfgs with a Hessian in each solve",
    )
    lr: Positive | None = Field(
        default=None, description="constant learning rate: no warm-up, decay, averaging or momentum"
    )
    l2: Literal["auto"] | Penalty = setting("auto", "strength of the squared penalty; auto searches")
    l1: Penalty = setting(0.0, "strength of the absolute penalty")


class Training(Section):
    """How long, on what batches, in what order."""

    epochs: Epochs | None = setting(None, "exactly this many passes, without early stopping")
    batch_rows: Literal["all"] | Count | None = setting(None, "rows of a step; all is one step an epoch")
    seed: Seed = setting(0, "decides splits, order and initial hidden weights")
    shuffle: bool = setting(True, "mix the rows anew in each epoch")
    precision: Literal["auto", "float32", "bf16", "fp16"] = setting("auto", "arithmetic of the forward pass")
    patience: Count = setting(2, "epochs without a better validation loss before stopping")


class Search(Section):
    """The strengths of l2 that are tried, as C = 1 / (l2 · sum of weights)."""

    c_low: Strength = setting(1e-5, "smallest C")
    c_high: Strength = setting(1e3, "largest C")
    steps_per_decade: Few = setting(2, "values of C for each factor of ten")


class Thresholds(Section):
    """How scores become decisions."""

    objective: str = setting("f1", "what the thresholds maximize or guarantee, such as f1 or precision:0.9")
    method: Literal["auto", "plain"] = setting("auto", "auto shrinks rare labels, plain does not")


class Runtime(Section):
    """The machine."""

    device: Device = setting("auto", "auto, cpu, cuda or cuda:N")
    threads: Few | None = setting(None, "threads of decoding and arithmetic; null takes every core")
    memory_budget: Bytes = setting(512 << 20, "bytes that the data may occupy, such as 512MiB")
    cache: str = setting("auto", "auto, off, or a folder for decoded data")


class Settings(Section):
    """Every setting of a run."""

    data: Data = Data()
    features: Features = Features()
    model: Model = Model()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    training: Training = Training()
    search: Search = Search()
    thresholds: Thresholds = Thresholds()
    runtime: Runtime = Runtime()

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        return _obey(self, [*self._optimizer_rules(), *self._search_rules()])

    def _optimizer_rules(self) -> Iterator[tuple[str, str]]:
        if self.optimizer.name != AUTO:
            yield from OPTIMIZERS[self.optimizer.name].broken_rules(
                lr=self.optimizer.lr,
                l1=self.optimizer.l1,
                batch_rows=self.training.batch_rows,
                hidden=self.model.hidden,
            )

    def _search_rules(self) -> Iterator[tuple[str, str]]:
        low, high = self.search.c_low, self.search.c_high
        if low > high:
            yield "search.c_low", f"must be at most search.c_high, got {low:g} and {high:g}; exchange them"
        values = math.log10(high / low) * self.search.steps_per_decade if low <= high else 0
        if values > MOST_STRENGTHS:
            yield (
                "search.steps_per_decade",
                f"must give at most {MOST_STRENGTHS} values of C, gives {values:,.0f}; lower it",
            )

    def to_yaml(self) -> str:
        """Return the resolved settings as YAML that `load_run_file` reads back to an equal tree."""
        return _dump(self.model_dump(mode="json"))


class Arguments(Section):
    """The arguments of `fit` that a file may hold beside the settings, so that it is a whole run."""

    train: Names | None = setting(None, "files, folders, globs or URIs to train on")
    labels: Names | None = setting(None, "label columns or globs, or one column of tags")
    valid: Names | None = setting(None, "held-out data, as for train")
    valid_fraction: Fraction | None = setting(None, "fraction of the rows to hold out; 0 for none")
    valid_by: ValidBy | None = setting(None, "hold out by time:COLUMN or group:COLUMN")
    folds: Folds | None = setting(None, "number of folds, each held out once")
    columns: Names | None = setting(None, "feature columns or globs; all but the others if not given")
    exclude: Names | None = setting(None, "columns or globs that are no features")
    weight: str | None = setting(None, "column of row weights")
    key: str | None = setting(None, "column that identifies a row")
    group: str | None = setting(None, "column that names a cluster of rows, split as one")
    out: str | None = setting(None, "run folder to write")

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        ways = [name for name in ("valid", "valid_fraction", "valid_by", "folds") if getattr(self, name) is not None]
        message = f"cannot be given together with {', '.join(ways[:-1])}; keep one way to hold out rows"
        return _obey(self, [(ways[-1], message)] if len(ways) > 1 else [])


class RunFile(NamedTuple):
    """What a configuration file holds."""

    arguments: Arguments
    settings: Settings

    def without_secrets(self) -> RunFile:
        """Return the same with the addresses of the data without user, password, keys and signatures."""
        named = {name: getattr(self.arguments, name) for name in ("train", "valid")}
        safe = {name: tuple(map(without_secrets, found)) for name, found in named.items() if found is not None}
        return self._replace(arguments=self.arguments.model_copy(update=safe))

    def to_yaml(self) -> str:
        """Return the arguments that are given and all settings as YAML that `load_run_file` reads back equal."""
        return _dump(self.arguments.model_dump(mode="json", exclude_none=True) | self.settings.model_dump(mode="json"))


def _obey(model: SettingsModel, broken: list[tuple[str, str]]) -> SettingsModel:
    """Return `model`, or raise the rules between fields that it breaks: (key, message)."""
    if broken:
        message = "; ".join(f"{key} {message}" for key, message in broken)
        raise PydanticCustomError("rules", "{message}", {"message": message, "broken": broken})
    return model


class _Dumper(yaml.SafeDumper):
    """Writes text with special characters in double quotes, the one style that escapes every line break."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)


def _dump(values: dict[str, Any]) -> str:
    return yaml.dump({"format_version": FORMAT_VERSION} | values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
