"""Data sets written anew: converted from other formats, shuffled, split.

buckets       rows dealt to buckets on disk by a random number, and given back in its order
formats       files of other formats → tables
row_groups    Parquet files with row groups of a good size and page checksums; bounds of budget and seed
row_writer    tables in their order → files and row groups, begun as they fill up
shuffling     `shuffle`: rows in random order
conversion    `convert`: files of other formats → Parquet
splitting     `split`: rows in folders for training, validation and testing
"""
