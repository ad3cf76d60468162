"""Curation of CT-3M: volumes to axial slices, Parquet shards, index and loader."""
