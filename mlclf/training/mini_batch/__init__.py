"""Training by mini-batches: many candidates side by side, early stopping, checkpoints.

candidate_heads    the heads of R candidates, trained side by side on the same batches
best_weights       the weights of each candidate at its best epoch, to which early stopping goes back
checkpoint         all that must survive a restart, in one safetensors file
device_pool        every encoded row in the memory of the device, where the batches of each epoch are gathered
rates_and_penalties   the rate of each step, and the gradients of L1 and L2
transfer           copies batches to a GPU, each while it computes with the one before
loop               mini-batch training of R candidates side by side, one epoch after the other
"""
