"""The frozen base: any model's structure, NF4 layers, streamed loading, the loss in the head.

Not here: what is trained (`adapters`), and who holds which part (`engine`).
"""

import logging

# On CPUs with AVX-512 BF16 bitsandbytes advises, at import, to install a kernel for the
# repacked weights that `NF4Linear` never uses.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
