"""Transformer blocks, backbones (one file each) and baselines."""
