"""Which rows are held out, which are drawn, and in which order.

batch_plan        the order of an epoch: which rows of which slabs make each batch
census            how many rows of each unit belong to each part of the split
shuffle_order     random orders of units and rows: functions of seed, epoch and nothing else
splits            which rows are held out: hash splits, folds, splits by time or group
stratification    rows → parts so that each label has its share in each part: iterative stratification
selection         which rows are drawn: those of some parts of the split, among those that `data.where` keeps
"""
