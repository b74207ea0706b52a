"""Data sets written anew: converted, split, shuffled."""

from mlclf.data.convert.shuffling import Shuffled, shuffle, shuffle_steps
from mlclf.data.convert.writing import Step

__all__ = ["Shuffled", "Step", "shuffle", "shuffle_steps"]
