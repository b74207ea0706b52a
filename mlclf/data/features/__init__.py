"""Input columns → dense inputs and token ids, by what was fitted on training rows.

moments       weighted mean and deviation of many columns in one pass, in float64
tfidf         text → words and pairs of words → hashed counts → tf-idf
tokens        token ids of many columns and rows, joined and cut
categories    columns of levels → ids: strings, dictionaries and lists of tokens, by vocabulary or, past a limit
numeric       numeric columns and embeddings: standardized, mean for missing
text          words and word pairs, hashed, with tf-idf weights, rows of length 1
knots         where the line of a numeric input may bend, so that a linear model can follow curves
sparse        a list column of indices and one of values
features      every input column with its fitted statistics; an Arrow table → dense inputs and token ids
"""
