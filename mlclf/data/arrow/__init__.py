"""Arrow columns as arrays, hashes, times and one text for equal values.

arrays        arrow columns of any type → one array; of any numeric type → floats
families      families of types, by which columns get their roles
layouts       views and dictionaries → arrays whose values stand for themselves,
lists         their parts, nulls within them, and bits of membership
murmur        murmurHash3 x86-32 of many values at once
identities    what is equal to what: one canonical text for each value of any Arrow type, and the hash of it
row_hashes    hashes of rows and of groups: what splits and folds are drawn by
times         columns of times → seconds: numbers, dates, timestamps of any unit, and ISO 8601 text
"""
