"""Where the bytes are: files, folders, globs, and URIs that are read over a network.

byte_ranges      where the column chunks of row groups lie in a file; neighbours are read as one range
retries          requests that are made again after faults that may pass, until a deadline
remote_files     files that are read over a network, each request with retries and a deadline
uris             from a URI to the filesystem that reads it, with credentials and timeouts
partitions       the types of columns that folders called `key=value` give (hive partitions)
sources          one file of the data: opened for reading, and noticed when it changes
folders          what is in a folder, and which of its files are read
finding          which files the data arguments name, each once
"""
