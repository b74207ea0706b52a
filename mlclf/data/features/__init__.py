"""Input columns → dense inputs and token ids, by what was fitted on training rows. A role of columns is a class.

token_ids        ids of rows in a vocabulary, those of several columns beside each other
fitted_column    the interface of a role: a column fitted to training rows
moments          weighted mean and deviation of many columns in one pass, in float64
numeric          one number a row: standardized, the mean where missing, with an indicator
embedding        vectors of one length
categorical      one level a row → ids, by vocabulary or, where there are too many, by hash
tokens           lists of levels
sparse           list columns of indices and of values
text             free text: words and pairs of words → hashed counts → tf-idf
roles            the table of roles: one line each
splines          linear splines: inputs for the knots of numeric columns
encoder          all columns together: an Arrow table → dense inputs and token ids
"""
