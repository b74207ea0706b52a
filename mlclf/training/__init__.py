"""Batches → weights: the models, their loss, and two ways to train them.

hold_out       which rows train, choose and decide, and what a model scores on those that were held out
losses         binary cross-entropy of logits with pos_weight, masks, row and label weights
models         one linear map from dense inputs and token ids to K logits, with optional hidden layers
fold_levels    models of different folds moved to one mean logit, so that their scores can be pooled
mini_batch     training by mini-batches: candidates side by side, early stopping, checkpoints
full_batch     exact optima in float64, and the search for the amount of L2
"""
