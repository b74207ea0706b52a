"""Binary and multi-label classification on Parquet data larger than memory.

The map, in the order in which a row travels; imports only point up it:

    messages       safe and short text, commands that a shell takes
    addresses      URIs, and the secrets that leave them
    given_files    what a user names: looked at before it is opened
    errors         what can go wrong, as a user meets it
    names          how data and columns are named from Python
    machine        memory, cores and threads, signals
    progress       jobs as generators that say how far they are
    files          the commit primitive: temporary file, hash, fsync, rename
    outputs        the folder of a command: its list, its lock, and how it takes the place of the one before
    config         settings: every default, YAML, and what is wrong with a value
    data           Parquet → batches
    training       batches → weights
    decisions      scores → metrics, calibration, thresholds, guarantees
    run_folder     the run folder: paths, versions, hashes
    fitting        the fit job, stage by stage
    jobs           fit, class Run (evaluate, predict, calibrate), jobs on the scores of any model
    demo           the data set with a known answer
    cli            argv and printing

The public names below are imported when they are first used, so that `import mlclf` costs nothing. What the command
line says on stderr goes to the logger "mlclf" in Python: warnings at level WARNING, which Python shows unless told
otherwise, the rest at INFO.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlclf.data.batch import Batch
    from mlclf.data.convert.conversion import convert
    from mlclf.data.convert.shuffling import shuffle
    from mlclf.data.convert.splitting import split
    from mlclf.data.parquet_loader import FittedFeatures, ParquetLoader
    from mlclf.decisions.thresholds.thresholds import Thresholds
    from mlclf.errors import CheckpointError, ConfigError, DataError, MlclfError, RunError, TrainingError
    from mlclf.jobs.apply_thresholds import apply_thresholds, diff_thresholds
    from mlclf.jobs.fit import fit
    from mlclf.jobs.run import Run
    from mlclf.jobs.score_arrays import tune_thresholds
    from mlclf.jobs.score_files import calibrate_scores, evaluate_scores

__version__ = "0.1.0"

_HOMES = {
    "Batch": "mlclf.data.batch",
    "FittedFeatures": "mlclf.data.parquet_loader",
    "ParquetLoader": "mlclf.data.parquet_loader",
    "convert": "mlclf.data.convert.conversion",
    "shuffle": "mlclf.data.convert.shuffling",
    "split": "mlclf.data.convert.splitting",
    "apply_thresholds": "mlclf.jobs.apply_thresholds",
    "calibrate_scores": "mlclf.jobs.score_files",
    "diff_thresholds": "mlclf.jobs.apply_thresholds",
    "evaluate_scores": "mlclf.jobs.score_files",
    "fit": "mlclf.jobs.fit",
    "tune_thresholds": "mlclf.jobs.score_arrays",
    "Thresholds": "mlclf.decisions.thresholds.thresholds",
    "Run": "mlclf.jobs.run",
    "MlclfError": "mlclf.errors",
    "DataError": "mlclf.errors",
    "ConfigError": "mlclf.errors",
    "RunError": "mlclf.errors",
    "CheckpointError": "mlclf.errors",
    "TrainingError": "mlclf.errors",
}

__all__ = [
    "Batch",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FittedFeatures",
    "MlclfError",
    "ParquetLoader",
    "Run",
    "RunError",
    "Thresholds",
    "TrainingError",
    "__version__",
    "apply_thresholds",
    "calibrate_scores",
    "convert",
    "diff_thresholds",
    "evaluate_scores",
    "fit",
    "shuffle",
    "split",
    "tune_thresholds",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mlclf' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names, also those that nobody has used yet, so that completion shows them."""
    return sorted({*globals(), *__all__})
