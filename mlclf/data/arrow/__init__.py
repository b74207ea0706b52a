"""Arrow columns as arrays: floats, times, ordinary arrays of views; equal values and their hashes.

arrays          columns of any type → one array; of any numeric type → floats
materialized    dictionaries and views → ordinary arrays, on which every function of Arrow works
lists           the parts of list arrays, nulls within them, packed booleans
murmur          MurmurHash3 x86-32 of many values at once
identities      what is equal to what: one canonical text for each value of any Arrow type, and its hash
families        families of types, by which columns get their roles
row_hashes      hashes of rows and of groups, by which splits and folds are drawn
times           columns of times → seconds
"""
