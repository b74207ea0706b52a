"""The public jobs: fit, a Run that evaluates, predicts and calibrates, and jobs on the scores of any model."""

from mlclf.jobs.fit_job import fit, fit_steps, resumed_run_file
from mlclf.jobs.run import Run
from mlclf.jobs.score_jobs import calibrate_scores_steps
from mlclf.jobs.steps import drain

__all__ = ["Run", "calibrate_scores_steps", "drain", "fit", "fit_steps", "resumed_run_file"]
