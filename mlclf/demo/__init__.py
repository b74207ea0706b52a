"""The data set with a known answer, and the tour through the commands on it.

made_data    data from a known linear model: numbers with missing values, cities, words,
job          the data set with a known answer: made from a linear model, learned back,
"""
