"""The fit job, a file for each stage; `fit_job` is their order.

preparation           what was asked, what one pass over the rows found, where the rows are
trained_models        what training leaves: models for held-out rows, the model of the run, how they were found
training_log          a line an epoch in `log.jsonl`, a line for some steps in `steps.jsonl`
optimizer_choice      which optimizer fits, and what is said of the settings that it does not use
certificate           how near the optimum each label is, for the run's manifest, and lines that say it
record                what made a run, for whoever reads it later: `run.json`
resuming              what a checkpoint is of: the data with its content, the arguments and settings
held_out_decisions    calibrator and thresholds from held-out rows, their metrics, and the files of the run
knots                 knots in numeric columns: tried where they fit, kept where held-out rows gain by them
full_batch            full-batch training: l2 chosen along a path, then the optimum in float64
mini_batch            mini-batch training: candidates of l2 and folds beside each other, early stopping
fit_job               the order of a fit's stages, and the folder that appears whole or not at all
"""
