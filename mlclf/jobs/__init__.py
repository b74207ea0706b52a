"""The public jobs: a function for each, and a generator of the same name with `_steps` that yields progress.

evaluate            metrics of scored rows, wherever these come from: one pass, and more where a ranking asks for it
prevalence_shift    thresholds for rows in which labels are more or less frequent than in those that they are tuned on
calibrate           thresholds tuned on scored rows, wherever these come from
run_data            data as a run reads and scores it, and the held-out rows of its fit
parquet_parts       parquet files of scores or decisions, one for each input file, written whole or not at all
predict             columns of scores and decisions
run                 a fitted model that evaluates, predicts and calibrates
run_summary         what `inspect` says of a run: what made it, what it chose, and how it does
score_files         the scores of any model in Parquet files: evaluate and calibrate
score_arrays        the scores of any model in memory: calibrate
apply_thresholds    decisions by thresholds, and how many change from one file of thresholds to another
fit                 the job of `fit`, fresh or resumed
"""
