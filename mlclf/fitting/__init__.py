"""The job of `fit`: a file for each stage, and `fit_job`, which runs them in order.

preparation           what was asked, what one pass over the rows found, where the rows are
trained_models        the result of training, for calibration and the run folder
training_log          one line an epoch in `log.jsonl`, one line for every 50th step in `steps.jsonl`
optimizer_choice      the optimizer of a fit; warnings of settings that it ignores, of a budget that changes the model
certificate           gradient norm and duality gap of each label, for the run's manifest and for the user
record                `run.json`: which data, settings and choices made a run
resuming              whether a checkpoint belongs to a fit
held_out_decisions    from held-out rows to a run: calibration, thresholds, metrics, and its files
knots                 linear splines of numeric columns: tried where they fit, kept where held-out log-loss improves
full_batch            search for l2 along a path of models, then the exact optimum in float64
mini_batch            all values of l2 and all folds side by side, early stopping, checkpoints
fit_job               the stages in their order, and the run folder, which appears whole or not at all
"""
