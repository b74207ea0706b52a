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

FORMAT_VERSION = 1

MOST_STRENGTHS = 1_000
"""Values of C in a search: each is a model."""

FULL_BATCH = ("lbfgs", "newton")
"""Optimizers that solve the convex problem on all rows at once."""


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(Section):
    """Which rows are read, and what a label's values mean."""

    where: str | None = Field(default=None, description="SQL expression that a row must satisfy to be used")
    on_corrupt: Literal["error", "skip"] = Field(default="error", description="what to do with a damaged row group")
    label_values: dict[str, Label] = Field(
        default={}, description="text of a label's value -> 0, 1 or null (not observed)"
    )
    label_lists: Literal["auto", "tags", "elements"] = Field(
        default="auto", description="what a list column of labels holds: tags, or a 0 or 1 for each label"
    )


class Features(Section):
    """How columns become inputs."""

    standardize: bool = Field(default=True, description="scale numeric and embedding columns to mean 0 and deviation 1")
    knots: Literal["auto", "none"] = Field(
        default="auto", description="auto: linear splines for numeric columns in memory, kept where held-out rows gain"
    )
    roles: dict[str, Role] = Field(default={}, description="column name or glob -> role, where the one found is wrong")
    vocabulary_levels: Count = Field(
        default=100_000, description="most frequent levels kept per column, the rest is 'other'"
    )
    hash_limit: Count = Field(default=1_000_000, description="distinct strings in a column beyond which it is hashed")
    hash_buckets: Buckets = Field(default=1 << 18, description="buckets of a hashed column, a power of two")


class Model(Section):
    """The shape of the model."""

    hidden: Widths = Field(default=(), description="widths of hidden layers; none is the linear model")


class Loss(Section):
    """What training minimizes."""

    pos_weight: Literal["none", "balanced", "sqrt"] | Positive | dict[str, Positive] = Field(
        default="none", description="weight of positives: a rule, one number, or label -> number"
    )


class Optimizer(Section):
    """How it is minimized."""

    name: Literal["auto", "lbfgs", "newton", "adam", "adamw", "adagrad", "sgd"] = Field(
        default="auto",
        description="auto chooses by the size of the problem; newton is lbfgs with a Hessian in each solve",
    )
    lr: Positive | None = Field(
        default=None, description="constant learning rate: no warm-up, decay, averaging or momentum"
    )
    l2: Literal["auto"] | Penalty = Field(default="auto", description="strength of the squared penalty; auto searches")
    l1: Penalty = Field(default=0.0, description="strength of the absolute penalty")


class Training(Section):
    """How long, on what batches, in what order."""

    epochs: Epochs | None = Field(default=None, description="exactly this many passes, without early stopping")
    batch_rows: Literal["all"] | Count | None = Field(
        default=None, description="rows of a step; all is one step an epoch"
    )
    seed: Seed = Field(default=0, description="decides splits, order and initial hidden weights")
    shuffle: bool = Field(default=True, description="mix the rows anew in each epoch")
    precision: Literal["auto", "float32", "bf16", "fp16"] = Field(
        default="auto", description="arithmetic of the forward pass"
    )
    patience: Count = Field(default=2, description="epochs without a better validation loss before stopping")


class Search(Section):
    """The strengths of l2 that are tried, as C = 1 / (l2 · sum of weights)."""

    c_low: Strength = Field(default=1e-5, description="smallest C")
    c_high: Strength = Field(default=1e3, description="largest C")
    steps_per_decade: Few = Field(default=2, description="values of C for each factor of ten")


class Thresholds(Section):
    """How scores become decisions."""

    objective: str = Field(
        default="f1", description="what the thresholds maximize or guarantee, such as f1 or precision:0.9"
    )
    method: Literal["auto", "plain"] = Field(default="auto", description="auto shrinks rare labels, plain does not")


class Runtime(Section):
    """The machine."""

    device: Device = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    threads: Few | None = Field(default=None, description="threads of decoding and arithmetic; null takes every core")
    memory_budget: Bytes = Field(default=512 << 20, description="bytes that the data may occupy, such as 512MiB")
    cache: str = Field(default="auto", description="auto, off, or a folder for decoded data")


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
        return _obey(self, [*self._solver_rules(), *self._search_rules()])

    def _solver_rules(self) -> Iterator[tuple[str, str]]:
        name = self.optimizer.name
        if name not in FULL_BATCH:
            return
        steppers = "choose adam, adamw, adagrad or sgd"
        if self.optimizer.lr is not None:
            yield "optimizer.lr", f"must be null with optimizer.name {name!r}, which finds its step; {steppers}"
        if self.training.batch_rows not in (None, "all"):
            yield "training.batch_rows", f"must be null or 'all' with optimizer.name {name!r}; {steppers}"
        if name == "newton" and self.optimizer.l1:
            yield "optimizer.l1", "must be 0 with optimizer.name 'newton', whose objective is smooth; choose lbfgs"
        if self.model.hidden:
            yield "model.hidden", f"must be empty with optimizer.name {name!r}, for convex problems; {steppers}"

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

    train: Names | None = Field(default=None, description="files, folders, globs or URIs to train on")
    labels: Names | None = Field(default=None, description="label columns or globs, or one column of tags")
    valid: Names | None = Field(default=None, description="held-out data, as for train")
    valid_fraction: Fraction | None = Field(default=None, description="fraction of the rows to hold out; 0 for none")
    valid_by: ValidBy | None = Field(default=None, description="hold out by time:COLUMN or group:COLUMN")
    folds: Folds | None = Field(default=None, description="number of folds, each held out once")
    columns: Names | None = Field(default=None, description="feature columns or globs; all but the others if not given")
    exclude: Names | None = Field(default=None, description="columns or globs that are no features")
    weight: str | None = Field(default=None, description="column of row weights")
    key: str | None = Field(default=None, description="column that identifies a row")
    group: str | None = Field(default=None, description="column that names a cluster of rows, split as one")
    out: str | None = Field(default=None, description="run folder to write")

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
