"""Data sets written anew: converted, split, shuffled."""
