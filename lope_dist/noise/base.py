"""The contract of a noise operation, and the table of all of them.

An operation is a pure function ``(text, rng, rate) -> text``. ``rate`` is the share of the
text's words that it hits; 0 returns the text unchanged. It keeps all white space, works on
graphemes (what a reader sees as one character), and takes its random numbers in a fixed
order: first which words are hit, then how. A new one is a new file in this package with
``@NOISE.register("its_name")``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lope_dist.core.registry import Registry

NoiseOp = Callable[[str, np.random.Generator, float], str]

NOISE: Registry[NoiseOp] = Registry("noise operation", package="lope_dist.noise")
