"""Before training: what was asked, what one pass over the rows found, and where the rows are.

split_choice    which rows are held out: as the arguments say, or by default; groups stay together
fit_plan        what was asked, and what is known of the data before all of it is read
model_size      refuses models that do not fit into memory, before any memory is taken
fit_data        the rows of a fit and the statistics of them, found in one pass
fit_rows        rows read from files for each pass, held in memory, or copied to a GPU
"""
