"""Columns → arrays: one module for each role, and `Features`, which holds them all."""
