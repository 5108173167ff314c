"""LoPE fine-tuning of quantized language models on many devices.

The method is that of arXiv 2505.23868: LoRA with one shared matrix A and several
expert matrices B, one of them trained on injected noise and masked at inference.
"""

__version__ = "0.1.0"
