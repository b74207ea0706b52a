"""The public jobs: each is a function, and one with `_steps` that says how far it is.

evaluate            what `evaluate` does with scored rows, whoever scored them: one pass,
kept_rows           the rows of other data that the condition of a fit keeps
make_tuner          the one place where jobs choose thresholds
parquet_parts       parquet files of scores or decisions, one for each input file, written whole or not at all
predict             parquet parts of scores and decisions that mirror the files they were made of
prevalence_shift    thresholds for rows in which labels occur more or less often than in those
run_summary         what `inspect` says of a run: what made it, what it chose, and how it does
apply_thresholds    jobs that decide by thresholds: apply them to scores, and compare two of them
run                 a fitted model that evaluates, predicts and calibrates
score_arrays        thresholds of scores in memory: arrays, tensors and frames
score_files         jobs on the scores of any model, in Parquet, with labels: calibrate and evaluate
fit                 the job of `fit`, fresh or resumed
"""
