"""The fit job, a module for each stage: prepared → full_batch or mini_batch → decided; `job` is their order."""

from mlclf.fitting.job import FitJob
from mlclf.fitting.trained import Trained

__all__ = ["FitJob", "Trained"]
