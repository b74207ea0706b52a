"""Settings: every default, what each may be, and the YAML and options that fill them.

fields          what each kind of value may be, and how it is said when it is not
optimizers      the optimizers: a class for each kind, and the table of those that `optimizer.name` may name
yaml_text       every scalar but a plain null keeps the characters that were written
settings        the tree of validated settings, every default, and the YAML that fills it
explanations    what a refused setting should have been: the nearest key, the values that it may take
loading         YAML and options of the command line → validated settings
"""
