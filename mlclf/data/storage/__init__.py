"""Where the bytes are: files, folders, globs, and URIs read over a network.

byte_ranges      where the column chunks of a unit lie in a file, neighbours joined
chosen_files     which files of a folder are read: Parquet files, by their names or their first bytes,
faults           what a failed request means: try again, give up, or say that something is missing or forbidden
local_folders    what is in a folder of this machine, its folders included; links are followed
partitions       the types of columns that folders called `key=value` give (hive partitions)
retries          requests made again after passing faults, with growing random waits, until a deadline
remote_files     reading over a network: URI → a filesystem whose every request is retried, ends by a deadline,
sources          where the bytes are: files, folders, globs and URIs → a list of sources, each file once
uris             URIs → filesystems, with their credentials and deadlines
finding          files, folders, globs and URIs → a list of sources, each file once
"""
