"""Which columns of Parquet files hold scores, labels and weights, and which belong together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from mlclf.data.arrow.arrays import is_list
from mlclf.data.arrow.families import family
from mlclf.data.parquet.decoding import decode_unit
from mlclf.data.parquet.plan import Plan
from mlclf.data.schema.globs import matches, names_and_globs
from mlclf.decisions.score_files.columns import KIND_KEY, LOGIT, PROBABILITY, CellColumns, is_numeric
from mlclf.decisions.score_files.keys import check_key_kinds
from mlclf.decisions.score_files.label_join import JoinedLabels
from mlclf.decisions.score_files.label_rows import COLUMNS, TAGS, VALUES, LabelReader
from mlclf.decisions.score_files.reading import LabelScores, ScoreFiles
from mlclf.errors import ConfigError, DataError
from mlclf.messages import listed, some_of

SCORE_PREFIX, WEIGHT_PREFIX = "score_", "weight_"


def open_scores(plan: Plan, scores: Sequence[str], kind: str | None, label_names: Sequence[str]) -> LabelScores:
    """Find the scores of files, whatever their labels are.

    Args:
        plan: the score files.
        scores: column names or globs; `score_X` belongs to label X. Or one column of lists.
        kind: `probability` or `logit`; None takes what the files say.
        label_names: of the elements of lists, in their order.

    Raises:
        ConfigError: a column or the kind is missing.
        DataError: a file lacks a column or has it of another type.
    """
    found, kind = score_columns(plan, scores), score_kind(plan, kind)
    names = tuple(label_names)
    if not found.is_list:
        names = tuple(name.removeprefix(SCORE_PREFIX) for name in found.names)
    return LabelScores(plan, kind, names, CellColumns(found.names, len(names), found.is_list))


def open_score_files(
    plan: Plan,
    scores: Sequence[str],
    labels: Sequence[str] | None,
    kind: str | None,
    *,
    label_plan: Plan | None = None,
    key: str | None = None,
    weight: str | None = None,
    label_weights: Sequence[str] | None = None,
    group: str | None = None,
    label_names: Sequence[str] | None = None,
    budget_bytes: int = 512 << 20,
) -> ScoreFiles:
    """Pair the scores with their labels.

    Args:
        plan: the score files.
        scores: column names or globs; or one column of lists.
        labels: column names or globs; or one column of lists, of values or of tags. None takes X for every `score_X`.
        kind: `probability` or `logit`; None takes what the files say.
        label_plan, key: where the labels are, when not beside the scores, and the column that joins them.
        weight, label_weights, group: columns of either; `weight_X` belongs to label X.
        label_names: of the elements of lists.
        budget_bytes: of memory for labels that are joined.

    Raises:
        ConfigError: a column, the kind or the key is missing.
        DataError: a file lacks a column or has it of another type; the labels to be joined do not fit the budget.
    """
    if label_plan is not None and key is None:
        raise ConfigError("--label-data needs --key, the column that joins scores and labels")
    kind = score_kind(plan, kind)
    truth = label_plan or plan
    found = score_columns(plan, scores)
    notes = [*names_and_globs(plan, "--scores", scores), *names_and_globs(truth, "--labels", labels or ())]
    style, columns = _label_columns(truth, found, labels, notes)
    names, found = _paired(plan, found, style, columns, label_names)
    label_files = [truth] if label_plan is None else [plan, truth]
    _check_columns([(plan, "--key", key), *((truth, "--key", key) for _ in label_files[1:])])
    if label_plan is not None and key is not None:
        check_key_kinds([plan, label_plan], key)
    weights = _weight_columns(label_files, label_weights, names)
    homes = [_home(label_files, "--weight", weight), _home(label_files, "--group", group)]
    homes.append(0 if weights is None else _home(label_files, "--label-weights", weights.names[0]))
    _check_columns([(label_files[homes[0]], "--weight", weight), (label_files[homes[1]], "--group", group)])

    def reader(side: int) -> LabelReader:
        has_labels = side == len(label_files) - 1
        return LabelReader(
            names,
            style if has_labels else None,
            columns if has_labels else (),
            weight if homes[0] == side else None,
            weights if homes[2] == side else None,
            group if homes[1] == side else None,
        )

    joined = None
    if label_plan is not None and key is not None:
        joined = JoinedLabels(label_plan, key, reader(1), budget_bytes)
    identity = key if group is None else None
    return ScoreFiles(plan, kind, names, found, reader(0), joined, weights, identity, notes)


def score_kind(plan: Plan, kind: str | None) -> str:
    """What the scores are: as declared, or as the files say.

    Raises:
        ConfigError: neither says it, or they contradict each other.
    """
    said: dict[str | None, str] = {}
    for shard in plan.shards:
        value = (shard.schema.metadata or {}).get(KIND_KEY)
        said.setdefault(None if value is None else value.decode(errors="replace"), shard.source.name)
    told = {value: name for value, name in said.items() if value is not None}
    if kind is None and len(told) == 1 and len(said) == 1:
        kind = next(iter(told))
    if kind not in (PROBABILITY, LOGIT):
        where = said.get(None) if told else None
        silent = f"{where} does not say it" if where else "the files do not say it"
        if len(told) > 1:
            silent = "the files say " + ", ".join(f"{value!r} ({name})" for value, name in told.items())
        raise ConfigError(
            f"--score-kind must be 'probability' or 'logit': {silent if kind is None else f'got {kind!r}'}"
        )
    for value, name in told.items():
        if value != kind:
            raise ConfigError(
                f"--score-kind is {kind!r}, but {name} says that its scores are {value!r}; leave --score-kind out, or "
                "give other files"
            )
    return kind


def score_columns(plan: Plan, patterns: Sequence[str]) -> CellColumns:
    """The columns that the patterns name, in the order of the first file.

    Raises:
        ConfigError: there are none, or columns and lists together.
        DataError: a file lacks one, or has it of another type.
    """
    schema = plan.shards[0].schema
    names = tuple(name for name in schema.names if any(matches(name, pattern) for pattern in patterns))
    if not names:
        hint = "; 'top_scores' are those of the best labels only: name the run and its data in place of the scores" * (
            "top_scores" in schema.names
        )
        raise ConfigError(
            f"--scores: no column of {plan.shards[0].source.name} matches {' '.join(map(repr, patterns))}, found "
            f"{some_of(schema.names, 5)}{hint}"
        )
    lists = [name for name in names if is_list(schema.field(name).type)]
    if lists and len(names) > 1:
        raise ConfigError(
            f"--scores takes score columns or one column of lists, not both: {lists[0]!r} is a list; name it alone"
        )
    _check_numbers(plan, "--scores", names, bool(lists))
    if not lists:
        odd = [name for name in names if not name.startswith(SCORE_PREFIX)]
        if odd:
            raise ConfigError(
                f"--scores: score columns must be called 'score_X' for label 'X', found {some_of(odd, 5)}; rename them"
            )
    return CellColumns(names, len(names), bool(lists))


def _check_numbers(plan: Plan, flag: str, names: Sequence[str], lists: bool) -> None:
    """Refuse files that lack a column or have it of another type: all of them at once."""

    def problem(name: str, kind: pa.DataType) -> str | None:
        if is_numeric(kind) and (is_list(kind) == lists or pa.types.is_null(kind)):
            return None
        return f"column {name!r} must hold {'lists of numbers' * lists or 'numbers'}, found {kind}"

    _check_types(plan, flag, names, problem)


def _check_label_types(plan: Plan, names: Sequence[str]) -> None:
    def problem(name: str, kind: pa.DataType) -> str | None:
        if family(kind) in ("number", "string", "null") and not pa.types.is_temporal(kind):
            return None
        return f"label {name!r} must be bool, numbers or strings, found {kind}"

    _check_types(plan, "--labels", names, problem)


def _check_types(
    plan: Plan, flag: str, names: Sequence[str], problem: Callable[[str, pa.DataType], str | None]
) -> None:
    problems = []
    for shard in plan.shards:
        kinds = {field.name: field.type for field in shard.schema}
        for name in names:
            found = problem(name, kinds[name]) if name in kinds else f"column {name!r} is missing"
            if found is not None:
                problems.append(f"{shard.source.name}: {found}")
    if problems:
        raise DataError(f"{listed(problems)}\nmend these files, or name other columns with {flag}")


def _label_columns(
    plan: Plan, scores: CellColumns, patterns: Sequence[str] | None, notes: list[str]
) -> tuple[str, tuple[str, ...]]:
    """How the labels are written, and their columns."""
    schema, file = plan.shards[0].schema, plan.shards[0].source.name
    if patterns is None:
        if scores.is_list:
            raise ConfigError(
                "--labels is needed where scores are lists: one column of lists, or columns in their order"
            )
        wanted = [name.removeprefix(SCORE_PREFIX) for name in scores.names]
        known = set(schema.names)
        missing = [name for name in wanted if name not in known]
        if missing:
            raise ConfigError(
                f"a score column needs its label: {file} has no column {some_of(missing, 5)}; name the labels with "
                "--labels, the scores with --scores, or other files with --label-data"
            )
        _check_label_types(plan, wanted)
        return COLUMNS, tuple(wanted)
    names = [name for name in schema.names if any(matches(name, pattern) for pattern in patterns)]
    own = set(scores.names) - set(patterns)
    names = [name for name in names if name not in own]
    if not names:
        raise ConfigError(
            f"--labels: no column of {file} matches {' '.join(map(repr, patterns))}, found {some_of(schema.names, 5)}"
        )
    lists = [name for name in names if is_list(schema.field(name).type)]
    if lists and len(names) > 1:
        raise ConfigError(
            f"--labels takes label columns or one column of lists, not both: {lists[0]!r} is a list; name it alone"
        )
    if not lists:
        _check_label_types(plan, names)
        return COLUMNS, tuple(names)
    kind = schema.field(lists[0]).type.value_type
    if family(kind) == "string" or (not scores.is_list and pa.types.is_integer(kind)):
        return TAGS, tuple(lists)
    if not is_numeric(kind):
        raise ConfigError(f"--labels: column {lists[0]!r} must hold lists of 0, 1 and null, or of tags, found {kind}")
    return VALUES, tuple(lists)


def _paired(
    plan: Plan, scores: CellColumns, style: str, columns: tuple[str, ...], label_names: Sequence[str] | None
) -> tuple[tuple[str, ...], CellColumns]:
    """The names of the labels and the columns of their scores, in one order."""
    if scores.is_list:
        size = _list_size(plan, scores.names[0])
        names = columns if style == COLUMNS else tuple(label_names or map(str, range(size)))
        if len(names) != size:
            what = "label columns" if style == COLUMNS else "names of --label-names"
            raise ConfigError(
                f"lists of scores must have as many elements as there are labels: {scores.names[0]!r} has {size:,}, "
                f"there are {len(names):,} {what}"
            )
        if style == TAGS and label_names is None:
            raise ConfigError(
                "--label-names is needed for tags whose scores are lists: a file with a label in each line"
            )
        return names, CellColumns(scores.names, size, True)
    named = [name.removeprefix(SCORE_PREFIX) for name in scores.names]
    if style != COLUMNS:
        return tuple(named), scores
    known = set(named)
    unscored = [name for name in columns if name not in known]
    if len(unscored) == len(columns):
        raise ConfigError(
            f"no score column belongs to a label: scores are {some_of(scores.names, 5)}, labels {some_of(columns, 5)}; "
            "'score_X' belongs to label 'X' (see --scores, --labels, --label-data)"
        )
    if unscored:
        raise ConfigError(
            f"a label needs its score: there is no score column of {some_of(unscored, 5)}; name fewer labels with "
            "--labels"
        )
    found = tuple(f"{SCORE_PREFIX}{name}" for name in columns)
    return columns, CellColumns(found, len(found))


def _list_size(plan: Plan, name: str) -> int:
    """How many elements the lists of a column have, by their type or by the first that is there."""
    kind = plan.shards[0].schema.field(name).type
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    for unit in plan.units:
        for _, table in decode_unit(plan, unit, [name], 1024):
            for value in table.column(name):
                if value.is_valid and len(value):
                    return len(value)
    raise DataError(f"{plan.shards[0].source.name}: column {name!r} must hold lists of scores, found no list with any")


def _weight_columns(
    plans: Sequence[Plan], patterns: Sequence[str] | None, label_names: tuple[str, ...]
) -> CellColumns | None:
    """The weights of the cells: `weight_X` of every label X, or one column of lists."""
    if not patterns:
        return None
    for plan in plans:
        schema = plan.shards[0].schema
        names = [name for name in schema.names if any(matches(name, pattern) for pattern in patterns)]
        if not names:
            continue
        if len(names) == 1 and is_list(schema.field(names[0]).type):
            _check_numbers(plan, "--label-weights", names, True)
            return CellColumns(tuple(names), len(label_names), True)
        wanted = [f"{WEIGHT_PREFIX}{name}" for name in label_names]
        known = set(names)
        missing = [name for name in wanted if name not in known]
        if missing:
            raise ConfigError(
                f"--label-weights: 'weight_X' belongs to label 'X', found no {some_of(missing, 5)} in "
                f"{plan.shards[0].source.name}; write a column of ones, or name fewer labels with --labels"
            )
        _check_numbers(plan, "--label-weights", wanted, False)
        return CellColumns(tuple(wanted), len(wanted))
    raise ConfigError(
        f"--label-weights: no column of {plans[0].shards[0].source.name} matches {' '.join(map(repr, patterns))}"
    )


def _home(plans: Sequence[Plan], flag: str, name: str | None) -> int:
    """Which of the plans has a column; the first where neither does.

    Raises:
        ConfigError: both have it.
    """
    having = [index for index, plan in enumerate(plans) if name in plan.shards[0].schema.names]
    if name is not None and len(having) > 1:
        raise ConfigError(
            f"{flag}: column {name!r} is in {plans[0].shards[0].source.name} and in {plans[1].shards[0].source.name}; "
            "drop it from one of them"
        )
    return having[0] if having else 0


def _check_columns(wanted: Sequence[tuple[Plan, str, str | None]]) -> None:
    for plan, flag, name in wanted:
        for shard in plan.shards:
            if name is not None and name not in shard.schema.names:
                raise ConfigError(
                    f"{flag}: column {name!r} is not in {shard.source.name}; check --key, --weight and --group"
                )
        if flag == "--weight" and name is not None:
            _check_numbers(plan, flag, [name], False)
