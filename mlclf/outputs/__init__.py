"""The folder that a command writes: what may be replaced, by whom, and how it appears whole or not at all.

apart          inputs and outputs are kept apart: neither lies inside the other, through links, patterns and URIs too
listing        the list of what was written to a folder: only these files, unchanged, may be replaced
documents      one JSON file as an output: it replaces nothing but such a file
exchange       a finished folder and another change places: in one step where the system can, else with a journal
claims         the claim to an output: one job at a time may write to a folder
building       the folder in which a new output is written, and its list
replacement    how a finished folder becomes the output, whatever is there
output         one output of a command, from the first look at `--out` to the moment at which it is whole
"""
