"""Decoded rows → slabs in a pool of bounded memory → batches.

memory_budget    the memory budget → slabs, their rows, and readers
slab             encoded rows in row-major arrays, and the layout of a row
pool             slabs of encoded rows in row-major memory that is allocated once, bounded and used again
row_encoder      an Arrow table → the rows of a slab, with everything that a row carries
slab_cache       encoded slabs on a local disk, which later epochs read straight into the pool
batch_stream     spans → decode threads → pool of slabs → Batch, as torchdata nodes
"""
