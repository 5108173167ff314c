"""Pretrained weights: families, NF4 layers, streamed loading."""

import logging

# On CPUs with AVX-512 BF16 bitsandbytes advises, at import, to install a kernel for the
# repacked weights that `NF4Linear` never uses.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
