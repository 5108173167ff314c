"""Pretrained weights: families, NF4 layers, streamed loading."""
