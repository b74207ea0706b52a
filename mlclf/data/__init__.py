"""Parquet → batches."""
