"""What a data set holds, and what to mend in it before it is trained on.

fit_memory    what a fit will hold in memory, foretold from what a look at the data tells
mixing        how well the pool mixes data whose labels are sorted: the deviation of batch means
warnings      what to mend in data before it is trained on
report        what a data set holds: files, row groups, columns with their roles, labels,
summary       the report as lines of text
"""
