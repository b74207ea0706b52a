"""The public jobs: fit, a Run that evaluates, predicts and calibrates, and jobs on the scores of any model."""

from mlclf.data.steps import drain
from mlclf.jobs.arrays import tune_thresholds
from mlclf.jobs.decision_jobs import (
    apply_thresholds,
    apply_thresholds_steps,
    diff_thresholds,
    diff_thresholds_steps,
)
from mlclf.jobs.fit_job import fit, fit_steps, resumed_run_file
from mlclf.jobs.run import Run
from mlclf.jobs.score_jobs import (
    calibrate_scores,
    calibrate_scores_steps,
    evaluate_scores,
    evaluate_scores_steps,
)

__all__ = [
    "Run",
    "apply_thresholds",
    "apply_thresholds_steps",
    "calibrate_scores",
    "calibrate_scores_steps",
    "diff_thresholds",
    "diff_thresholds_steps",
    "drain",
    "evaluate_scores",
    "evaluate_scores_steps",
    "fit",
    "fit_steps",
    "resumed_run_file",
    "tune_thresholds",
]
