"""The machine: memory, signals, and how many threads compute.

memory     how much this process may still take, arrays whose memory is used again, and what is given back
signals    stops that signals ask for: a flag that is looked at between batches and in waits
tally      counts that several threads may add to
threads    how many threads PyTorch computes on while others decode, and as many as before afterwards
workers    work on many pieces side by side, each on one thread of PyTorch's
"""
