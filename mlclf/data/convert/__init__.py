"""Data sets written anew: converted, split, shuffled."""

from mlclf.data.convert.conversion import Converted, convert, convert_steps
from mlclf.data.convert.shuffling import Shuffled, shuffle, shuffle_steps
from mlclf.data.convert.splitting import SplitData, split, split_steps
from mlclf.data.convert.writing import Step

__all__ = [
    "Converted",
    "Shuffled",
    "SplitData",
    "Step",
    "convert",
    "convert_steps",
    "shuffle",
    "shuffle_steps",
    "split",
    "split_steps",
]
