"""Parquet files → batches: what is read, which rows, as which numbers, in which order.

arrow             columns as arrays; hashes, times, equal values
storage           where the bytes are
batch             rows ready for the model
parquet           the plan of what is read, and decoded columns
features          columns as inputs of the model, a class for each role
schema            roles of columns
where             the SQL condition on rows
child_tasks       what a child is asked to find out from footers, by name
labels            0, 1 or not observed
sampling          held-out rows, and the order of the others
streaming         pool of slabs → batches
passes            statistics, folds, groups
convert           data sets written anew
inspection        what data holds, and what to mend in it
parquet_loader    batches of a Parquet data set for a training loop of one's own
"""
