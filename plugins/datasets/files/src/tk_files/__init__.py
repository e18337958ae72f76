"""Readers of local files: JSONL, JSON, CSV and Parquet."""
