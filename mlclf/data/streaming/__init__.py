"""Decoded rows → slabs in a pool of bounded memory → batches.

memory_budget    the memory budget → number and size of the slabs, and of readers
slab             encoded rows in row-major arrays, and the layout of a row
pool             slabs of encoded rows in row-major memory that is allocated once, bounded and used again
row_encoder      an Arrow table → the rows of a slab, with everything that a row carries
slab_cache       encoded slabs on a local disk, which later epochs read straight into the pool
batch_order      which rows make each batch of an epoch, on every rank
epoch            one epoch of rows that are read: spans → decode threads → pool of slabs → batches
batch_stream     the batches of epoch after epoch, where it is among them, and where their rows come from
"""
