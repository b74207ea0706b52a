"""Data sets written anew: converted from other formats, shuffled, split.

buckets       rows dealt to buckets on disk by a random number, and given back in its order
formats       files of other formats → tables
numbers       what is asked of a seed and a budget
row_groups    parquet files with row groups of a good size and page checksums
row_writer    rows written in the order in which they come: row groups and files are begun as they fill up
shuffling     A data set written anew: `shuffle` puts its rows in random order
conversion    files of other formats → Parquet with row groups of a good size and page checksums
splitting     the rows of a data set in folders for training, validation and testing, each row in exactly one
"""
