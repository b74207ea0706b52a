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

A row goes data.storage (files) → data.parquet (plan) → data.schema (roles) → data.sampling (held-out parts) →
data.features (inputs) → data.streaming (batches) → training (weights). A score goes decisions.scorer (logits) →
decisions.histograms → decisions.calibration → decisions.tuning (thresholds) → decisions.evaluation (metrics) →
run_folder. docs/architecture.md says what happens in each.

The public names below are imported when they are first used, so that `import mlclf` costs nothing. What the command
line says on stderr goes to the logger "mlclf" in Python: warnings at level WARNING, which Python shows unless told
otherwise, the rest at INFO.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlclf.data.batch import Batch as Batch
    from mlclf.data.convert.conversion import convert as convert
    from mlclf.data.convert.shuffling import shuffle as shuffle
    from mlclf.data.convert.splitting import split as split
    from mlclf.data.parquet_loader import FittedFeatures as FittedFeatures
    from mlclf.data.parquet_loader import ParquetLoader as ParquetLoader
    from mlclf.decisions.thresholds.thresholds import Thresholds as Thresholds
    from mlclf.errors import CheckpointError as CheckpointError
    from mlclf.errors import ConfigError as ConfigError
    from mlclf.errors import DataError as DataError
    from mlclf.errors import MlclfError as MlclfError
    from mlclf.errors import RunError as RunError
    from mlclf.errors import TrainingError as TrainingError
    from mlclf.jobs.apply_thresholds import apply_thresholds as apply_thresholds
    from mlclf.jobs.apply_thresholds import diff_thresholds as diff_thresholds
    from mlclf.jobs.fit import fit as fit
    from mlclf.jobs.run import Run as Run
    from mlclf.jobs.score_arrays import tune_thresholds as tune_thresholds
    from mlclf.jobs.score_files import calibrate_scores as calibrate_scores
    from mlclf.jobs.score_files import evaluate_scores as evaluate_scores

__version__ = "0.1.0"

_PUBLIC = {
    "mlclf.data.batch": ("Batch",),
    "mlclf.data.convert.conversion": ("convert",),
    "mlclf.data.convert.shuffling": ("shuffle",),
    "mlclf.data.convert.splitting": ("split",),
    "mlclf.data.parquet_loader": ("FittedFeatures", "ParquetLoader"),
    "mlclf.decisions.thresholds.thresholds": ("Thresholds",),
    "mlclf.errors": ("CheckpointError", "ConfigError", "DataError", "MlclfError", "RunError", "TrainingError"),
    "mlclf.jobs.apply_thresholds": ("apply_thresholds", "diff_thresholds"),
    "mlclf.jobs.fit": ("fit",),
    "mlclf.jobs.run": ("Run",),
    "mlclf.jobs.score_arrays": ("tune_thresholds",),
    "mlclf.jobs.score_files": ("calibrate_scores", "evaluate_scores"),
}
_HOMES = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mlclf' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names, also those that nobody has used yet, so that completion shows them."""
    return sorted({*globals(), *__all__})
