"""The machine: memory, cores and threads, signals.

memory     how much memory this process may still take: of the machine, of its control group, of its own limit
signals    A stop that a signal asks for: a flag that is looked at between batches and in waits,
tally      counts that several threads may add to
threads    how many threads PyTorch computes on while others decode, and that it is as before afterwards
workers    work on many pieces at once, each on one thread of torch's
"""
