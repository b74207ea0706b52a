"""The tree of validated settings, every default, and the YAML that fills it.

YAML is read as text: every scalar but a plain null keeps the characters that were written, and the field that receives
it decides what they mean: ``1e-4`` is a number for a rate, ``no`` can name a column, ``12:30:00`` stays as it is.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from mlclf.addresses import without_secrets
from mlclf.config.yaml_text import MOST_BYTES, Place, YamlText
from mlclf.errors import ConfigError, RunError
from mlclf.given_files import read_given, reason_of
from mlclf.messages import quoted

FORMAT_VERSION = 1

_Model = TypeVar("_Model", bound=BaseModel)
_Path = tuple[str, ...]


class Says(NamedTuple):
    """What a value must be, in the words of an error message."""

    text: str


def _refuse_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("true and false are not numbers")
    return value


def _bytes_from_text(value: object) -> object:
    """Return 536870912 for "512 MiB"; whatever is not so written is left for the field to judge."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([kmgt]i?)?b?", str(value).strip().lower())
    if not isinstance(value, str) or match is None:
        return value
    prefix = match[2] or ""
    base = 1024 if prefix.endswith("i") else 1000
    return int(float(match[1]) * base ** " kmgt".index(prefix[:1] or " "))


def _label_value(value: object) -> object:
    return {"0": 0, "1": 1}.get(value, value) if isinstance(value, str) else value


def _names(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError("not a power of two")
    return value


_NotBool = BeforeValidator(_refuse_bool)
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False), _NotBool, Says("a number > 0 and <= 1e9")]
Penalty = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False), _NotBool, Says("a number >= 0 and <= 1e15")]
Strength = Annotated[
    float, Field(ge=1e-15, le=1e15, allow_inf_nan=False), _NotBool, Says("a number from 1e-15 to 1e15")
]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), _NotBool, Says("a number >= 0 and < 1")]
Count = Annotated[int, Field(ge=1, le=2**31 - 1), _NotBool, Says("a whole number >= 1 and < 2**31")]
Few = Annotated[int, Field(ge=1, le=1_000), _NotBool, Says("a whole number from 1 to 1,000")]
Epochs = Annotated[int, Field(ge=1, le=1_000_000), _NotBool, Says("a whole number from 1 to 1,000,000")]
Folds = Annotated[int, Field(ge=2, le=100), _NotBool, Says("a whole number from 2 to 100")]
Seed = Annotated[int, Field(ge=0, lt=2**63), _NotBool, Says("a whole number >= 0 and < 2**63")]
Width = Annotated[int, Field(ge=1, le=100_000), _NotBool]
Widths = Annotated[
    tuple[Width, ...], Field(max_length=100), Says("a list of at most 100 whole numbers from 1 to 100,000")
]
Buckets = Annotated[
    int, Field(ge=1, le=2**31), AfterValidator(_power_of_two), _NotBool, Says("a power of two up to 2**31")
]
Bytes = Annotated[
    int,
    Field(ge=1, le=2**50),
    BeforeValidator(_bytes_from_text),
    _NotBool,
    Says("bytes up to 2**50, such as '512MiB' or 536870912"),
]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$"), Says("'auto', 'cpu', 'cuda' or 'cuda:N'")]
Names = Annotated[tuple[str, ...], BeforeValidator(_names), Says("a name or a list of names")]
ValidBy = Annotated[str, Field(pattern=r"^(time|group):(.|\n)+$"), Says("'time:COLUMN' or 'group:COLUMN'")]
Label = Annotated[Literal[0, 1] | None, BeforeValidator(_label_value)]
Role = Literal["numeric", "categorical", "tokens", "sparse", "embedding", "text", "ignore"]

WHERE = ("data", "where")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.|"")*"|\'(?:[^\']|\'\')*\'', re.DOTALL)
_OPERATOR = re.compile(r"[=<>]|\b(?:AND|BETWEEN|FALSE|IN|IS|NOT|OR|TRUE)\b", re.IGNORECASE)

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
        default="auto", description="auto: numeric columns in memory may bend, if the exact solver finds that it pays"
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


def _obey(model: _Model, broken: list[tuple[str, str]]) -> _Model:
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


def load_run_file(path: Path | None, sets: Sequence[str] = (), *, content: bytes | None = None) -> RunFile:
    """Return the defaults, overridden by the YAML file, overridden by each ``key=value`` in turn.

    `content` are the bytes of the file, where they have been read.

    A value of `sets` is text as it stands, unless it begins with ``[``, ``{`` or a quote, which makes it YAML; empty,
    ``~`` and ``null`` are null. A longer key sets one entry of a mapping: ``features.roles.zip=categorical``. A
    condition of ``data.where`` may begin with a column or a text in quotes: it is YAML only where its quotes enclose a
    whole condition.

    >>> load_run_file(None, ["optimizer.l2=1e-4", "model.hidden=[64, 32]"]).settings.model.hidden
    (64, 32)

    Raises:
        ConfigError: the file or a value is not what it must be; one line for each problem, with its place.
        RunError: the file is of another `format_version`.
    """
    tree = _Tree()
    if path is not None:
        tree.read(path, content)
    for text in sets:
        tree.set(text)
    return tree.run_file()


def _begins_with_a_term(condition: str) -> bool:
    """Whether a condition begins with a column or a text in quotes, and is not in quotes as a whole.

    >>> [_begins_with_a_term(text) for text in ('"my column" > 0', '"my flag"', '"x > 0"', "'x IS NULL'")]
    [True, True, False, False]
    """
    if condition[:1] not in ("'", '"'):
        return False
    is_column = condition[0] == '"' and not _OPERATOR.search(condition[1:-1])
    return is_column or _QUOTED.fullmatch(condition) is None


def _source_of(key: str) -> str:
    """Where a value was given: the flag of an argument, or --set."""
    return f"--{key.replace('_', '-')}" if key in Arguments.model_fields else f"--set {key}"


class _Tree:
    """Values as they were written, where each was written, and what is wrong with them."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[_Path, str] = {}
        self.problems: list[str] = []

    def read(self, path: Path, content: bytes | None = None) -> None:
        """Take the values of a YAML file."""
        try:
            text = (read_given(path, MOST_BYTES) if content is None else content).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: must be a YAML file, found {reason_of(error)}; check the path") from None
        values = self._parse(text, (), lambda mark: f"{path}:{mark.line + 1}" if mark else f"{path}")
        if not isinstance(values, dict | None):
            self.problems.append(f"{path}: must hold lines of 'key: value', found {_shown(values)}; write such lines")
            return
        self.values = values or {}
        found = self.values.pop("format_version", str(FORMAT_VERSION))
        if found != str(FORMAT_VERSION):
            raise RunError(
                f"{path} holds settings of format_version {_shown(found)}, this release of mlclf reads "
                f"{FORMAT_VERSION}; use the release that wrote it or write it again"
            )

    def set(self, text: str) -> None:
        """Take one ``key=value``."""
        key, equals, value = (part.strip() for part in text.partition("="))
        path, source = _path_of(key), _source_of(key)
        if not (key and equals):
            self.problems.append(f"--set {quoted(text)} must have the form key=value, such as optimizer.l2=0.1")
        elif key in Settings.model_fields:
            self.problems.append(f"{source}: names a section; set one of its keys: {', '.join(_siblings((key, '')))}")
        else:
            self.sources = {known: place for known, place in self.sources.items() if known[: len(path)] != path}
            self.sources[path] = source
            before = len(self.problems)
            is_yaml = value[:1] in ("[", "{", '"', "'") and not (path == WHERE and _begins_with_a_term(value))
            plain = None if value in ("", "~", "null") else value
            parsed = self._parse(value, path, lambda mark: source) if is_yaml else plain
            if len(self.problems) == before:
                self._store(path, parsed)

    def run_file(self) -> RunFile:
        """Return the validated values, or raise all problems."""
        given = {
            key: {} if value is None and key in Settings.model_fields else value for key, value in self.values.items()
        }
        arguments = self._build(Arguments, {key: given.pop(key) for key in Arguments.model_fields if key in given})
        settings = self._build(Settings, given)
        if self.problems or arguments is None or settings is None:
            raise ConfigError("\n".join(self.problems))
        return RunFile(arguments, settings)

    def _store(self, path: _Path, value: object) -> None:
        place = self.values
        for depth, part in enumerate(path[:-1]):
            inner = place.get(part)
            if depth == 0 and not isinstance(inner, dict | None):
                return  # the file has no mapping where the section should be, which is reported
            place[part] = inner if isinstance(inner, dict) else {}
            place = place[part]
        place[path[-1]] = value

    def _parse(self, text: str, path: _Path, place: Place) -> Any:
        """Return YAML as dicts, lists, texts and None, and note where its keys are and what is wrong with it."""
        found = YamlText(text, path, place)
        self.sources |= found.sources
        self.problems += found.problems
        return found.value

    def _build(self, model: type[_Model], values: dict[str, Any]) -> _Model | None:
        try:
            return model.model_validate(values)
        except ValidationError as error:
            self.problems += dict.fromkeys(
                line for item in error.errors(include_url=False) for line in self._explain(item)
            )
            return None

    def _explain(self, item: ErrorDetails) -> Iterator[str]:
        """Yield the lines for one of pydantic's errors, of which every member of a union makes its own."""
        path = tuple(str(part) for part in item["loc"])
        if item["type"] == "rules":
            for name, message in item["ctx"]["broken"]:
                yield f"{self._source(tuple(name.split('.')))}: {name} {message}"
            return
        if item["type"] == "extra_forbidden":
            yield f"{self._source(path)}: unknown setting {quoted('.'.join(path))}; {_nearest(path)}"
            return
        field = next(path[:end] for end in (1, 2) if path[:end] in _known() or end == len(path))
        given = self._value(field)
        key = [part for part in path[len(field) :] if isinstance(given, dict) and part in given][:1]
        if key or not (isinstance(given, dict) and _is_mapping(field)):  # else the error of its entry says it
            found = _shown(self._value((*field, *key))) + "".join(f" for {quoted(part)}" for part in key)
            yield f"{self._source((*field, *key))}: {'.'.join(field)} must be {_expected(field)}, got {found}"

    def _value(self, path: _Path) -> Any:
        value: Any = self.values
        for part in path:
            value = value[part]
        return value

    def _source(self, path: _Path) -> str:
        """Return where the value was written, or the nearest mapping around it, or else another key of its section."""
        around = (path[:end] for end in range(len(path), 0, -1))
        beside = (known for known in self.sources if known[0] == path[0])
        return next(self.sources[known] for known in (*around, *beside) if known in self.sources)


@cache
def _known() -> dict[_Path, Any]:
    """Return the annotation of every argument and setting by its path."""
    known: dict[_Path, Any] = {(name,): kind for name, kind in _annotations(Arguments).items()}
    for section, model in _annotations(Settings).items():
        known |= {(section, name): kind for name, kind in _annotations(model).items()}
    return known


def _annotations(model: type[BaseModel]) -> dict[str, Any]:
    hints = get_type_hints(model, include_extras=True)
    return {name: hints[name] for name in model.model_fields}


def _is_mapping(path: _Path) -> bool:
    kind = _known().get(path)
    return any(get_origin(member) is dict for member in (kind, *get_args(kind)))


def _path_of(key: str) -> _Path:
    """Return section and field, and the entry's name where the field is a mapping; the name may hold dots."""
    section, *rest = key.split(".", 2)
    if len(rest) == 2 and not _is_mapping((section, rest[0])):
        rest = [".".join(rest)]
    return (section, *rest)


def _siblings(path: _Path) -> list[str]:
    """Return the names that could stand where `path` ends."""
    names = [known[-1] for known in _known() if known[:-1] == path[:-1]]
    return names if len(path) > 1 else [*names, *Settings.model_fields]


def _nearest(path: _Path) -> str:
    """Return a hint: a similar name beside `path`, or anywhere, or all the names that could stand there."""
    siblings = {name: ".".join((*path[:-1], name)) for name in _siblings(path)}
    for names in (siblings, {known[-1]: ".".join(known) for known in _known()}):
        for name in difflib.get_close_matches(path[-1], names, n=1):
            return f"did you mean {names[name]!r}?"
    return f"known are {', '.join(siblings)}"


def _expected(path: _Path) -> str:
    """Return what the value at `path` must be, in words."""
    if path in _known():
        return _in_words(_known()[path])
    return f"a section with the keys {', '.join(_siblings((*path, '')))}"


def _in_words(kind: Any) -> str:
    *most, last = _alternatives(kind)
    return f"{', '.join(most)} or {last}" if most else last


def _alternatives(kind: Any) -> list[str]:
    """Return the words for each member of a type."""
    origin, members = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return [extra.text for extra in kind.__metadata__ if isinstance(extra, Says)] or _alternatives(members[0])
    if origin in (Union, UnionType):
        return [words for member in members for words in _alternatives(member)]
    if origin is Literal:
        return [repr(member) for member in members]
    if origin is dict:
        return [f"a mapping of names to {_in_words(members[1])}"]
    return [{bool: "true or false", str: "text", NoneType: "null"}[kind]]


def _shown(value: object) -> str:
    return "null" if value is None else quoted(value, 80)
