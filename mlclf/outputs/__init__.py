"""The folder that a command writes: what is replaced, by whom, and how it appears whole or not at all.

A command claims its `--out` (`claims`), which holds a list of what was written there (`listing`): nothing else is ever
replaced. The new output is built beside the old one, and both change places in one step (`exchange`); `output` is what
commands use.
"""
