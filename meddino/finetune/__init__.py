"""Segmentation of the benchmarks inside nnU-Net."""
