"""The fit job, a file for each stage; `fit_job` is their order.

hold_out_choice               which rows are held out where the user says nothing
model_size                    how much memory a model takes, before any of it is taken
trained_models                what the stages of a fit hand on: progress to the caller
data_preparation              plan, schema, split, statistics, and the streams of batches that every stage reads
cautions                      how a model does on the last of the rows: where these are in the order of time
certificate                   the certificate of a fit: how near the optimum each label is, for the run's manifest,
record                        what made a run, for whoever reads it later: `run.json`
resuming                      what a checkpoint is bound to: the data with its content, the arguments and settings
calibration_and_thresholds    decisions of a fit: calibrator and thresholds from held-out rows, their metrics,
full_batch                    full-batch training: l2 chosen along a path, then the optimum in float64
mini_batch                    mini-batch training: candidates of l2 and folds beside each other, early stopping
fit_job                       the order of a fit's stages, and the folder that appears whole or not at all
"""
