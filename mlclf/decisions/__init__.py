"""Weights → scores → decisions."""
