"""Backbones, heads and segmentation networks."""
