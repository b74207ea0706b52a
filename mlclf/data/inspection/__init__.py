"""What a data set holds, and what to mend in it before it is trained on.

fit_memory    an estimate of the memory that a fit will take
mixing        how far batch means deviate from those of a random order, where labels are sorted
warnings      what to mend in data before it is trained on
report        the report: files, row groups, columns with their roles, labels, memory
summary       the report as lines of text
"""
