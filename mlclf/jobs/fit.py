"""The job of `fit`, fresh or resumed."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlclf.addresses import is_address, without_credentials
from mlclf.config.loading import load_run_file
from mlclf.config.settings import RunFile, Settings
from mlclf.data.streaming.slab_cache import remove_cache
from mlclf.errors import ConfigError, DataError
from mlclf.files import real_path
from mlclf.fitting.fit_job import FitJob
from mlclf.jobs.run import Run
from mlclf.messages import quoted
from mlclf.names import Names, names_of
from mlclf.outputs.claims import beside
from mlclf.outputs.listing import Listing
from mlclf.outputs.output import claimed
from mlclf.progress import Progress, drain
from mlclf.run_folder import CACHE, WRITTEN, RunFolder


def fit(
    data: Names = (),
    labels: Names = (),
    out: str | Path | None = None,
    *,
    valid: Names | None = None,
    valid_fraction: float | None = None,
    valid_by: str | None = None,
    folds: int | None = None,
    features: Names = (),
    exclude: Names = (),
    weight: str | None = None,
    key: str | None = None,
    group: str | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, object] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Run:
    """Fit a calibrated model with thresholds on Parquet data and write its run folder.

    Args:
        data: files, folders, globs or URIs.
        labels: label columns or globs, or one list column of tags.
        out: the run folder.
        valid: held-out data. One of this and the next three at most; without any, 5 folds up to 200,000 rows, and a
            tenth of the rows held out above.
        valid_fraction: share of the rows to hold out; 0 for none.
        valid_by: `time:COLUMN` holds out the latest rows, `group:COLUMN` whole groups.
        folds: number of folds, each held out once.
        features: columns or globs that are inputs; the default is every other column.
        exclude: columns or globs that are no inputs.
        weight: column of row weights.
        key: column that identifies a row.
        group: column that names a cluster of rows, which stay together.
        config: YAML file of arguments and settings, which those given here override.
        settings: dotted name → value, such as {"optimizer.l2": 0.1}.

    Raises:
        ConfigError: an argument or a setting is unknown, out of range, or contradicts another.
        DataError: the data cannot be used. In both cases nothing is written.
    """
    arguments = {
        "train": names_of(data) or None,
        "labels": names_of(labels, "labels") or None,
        "valid": None if valid is None else names_of(valid, "data"),
        "valid_fraction": valid_fraction,
        "valid_by": valid_by,
        "folds": folds,
        "columns": names_of(features, "features") or None,
        "exclude": names_of(exclude, "exclude") or None,
        "weight": weight,
        "key": key,
        "group": group,
        "out": None if out is None else str(out),
    }
    given = {name: value for name, value in arguments.items() if value is not None} | dict(settings or {})
    run_file = load_run_file(None if config is None else Path(config), given=given)
    return drain(fit_steps(run_file, resume=resume, overwrite=overwrite))


def fit_steps(run_file: RunFile, *, resume: bool = False, overwrite: bool = False) -> Generator[Progress, None, Run]:
    """The job of `fit`, yielding progress; returns the run."""
    out = run_file.arguments.out
    if not out:
        raise ConfigError("fit needs --out, the folder that the run is written to")
    folder = RunFolder(Path(out))
    unkeyed: list[str] = []
    if resume:
        asked, run_file = run_file.arguments, resumed_run_file(folder, run_file)
        stored = {"train": run_file.arguments.train, "valid": run_file.arguments.valid}
        named = [uri for name, uris in stored.items() if getattr(asked, name) is None for uri in uris or ()]
        unkeyed = [without_credentials(uri) for uri in named if is_address(uri)]
        if folder.finished:
            yield from _tidied(folder)
            yield Progress("done", note=f"{out}: this run has finished; nothing is left to do")
            return Run.open(out)
    try:
        yield from FitJob(run_file, resume=resume, overwrite=overwrite).steps()
    except DataError as error:
        if resume and any(str(error).startswith(address) for address in unkeyed):
            hint = "a run keeps addresses without their keys: give DATA again with them, beside --resume"
            raise type(error)(f"{error}; {hint}") from error
        raise
    return Run.open(out)


def _tidied(folder: RunFolder) -> Iterator[Progress]:
    """Finish the last steps of a fit that was killed: remove its cache and temporary files, and close its file list."""
    listing = Listing.read(folder.path)
    is_open = listing is not None and not listing.finished
    if not (is_open or folder.file(CACHE).exists() or beside(real_path(folder.path)).exists()):
        return
    with claimed(folder.path, "fit", resume=True) as output:
        for note in output.said():
            yield Progress.warning("out", note)
        if remove_cache(folder.file(CACHE)):
            yield Progress.warning("out", f"{folder.path}: removed the cache that a fit had left which was killed")
        if is_open:
            with output.opened(grows=True, names=WRITTEN, mark=False):
                pass


def resumed_run_file(folder: RunFolder, given: RunFile) -> RunFile:
    """The arguments and settings of a started run; any that were given must match.

    Raises:
        ConfigError: there is nothing to resume, or an argument or setting differs; all that differ are named.
    """
    if not folder.started:
        raise ConfigError(f"{folder.path}: there is no run to resume here; fit without --resume")
    stored = load_run_file(folder.file("config.yaml"), [])
    problems = []
    safe = zip(given, given.without_secrets(), stored.without_secrets(), strict=True)
    for part, (written, new, old) in enumerate(safe):
        values, known = (_flat(model.model_dump(mode="json")) for model in (new, old))
        for name in _flat(written.model_dump(mode="json", exclude_unset=True)):
            value, was = values.get(name), known.get(name)
            if value != was and name not in ("out", *Settings.model_fields):  # a section without keys is no setting
                flag = f"--{name.replace('_', '-')}" if part == 0 else name
                problems.append(f"{flag}: the run has {quoted(was)}, given is {quoted(value)}")
    if problems:
        raise ConfigError("\n".join(problems) + "\na resumed run keeps its data and settings; leave these out")
    named = {name: getattr(given.arguments, name) for name in ("train", "valid")}  # with the keys to their addresses
    kept = {name: value for name, value in named.items() if value is not None} | {"out": str(folder.path)}
    return RunFile(stored.arguments.model_copy(update=kept), stored.settings)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            result |= _flat(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = value
    return result
