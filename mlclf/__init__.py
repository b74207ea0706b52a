"""Binary and multi-label classification on Parquet data larger than memory."""
