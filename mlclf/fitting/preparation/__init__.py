"""What a fit knows before it trains: what was asked, what one pass over the rows found, where the rows are.

split_choice    which rows are held out: as asked, or by the number of rows; groups stay together
fit_plan        what was asked, and what footers, schema and the columns of the split tell
model_size      how much memory a model takes, before any of it is taken
fit_data        the rows with all that one pass over them found
fit_rows        where rows come from: files that are read for each pass, memory, or a device
"""
