import subprocess
import sys

import numpy as np
import pytest

from lope_dist.config.noise import DataNoiseConfig, NoiseConfig, TextNoiseConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.seeds import example_rng
from lope_dist.noise import mix
from lope_dist.noise.base import NOISE

TEXT = " ".join(f"word{i:03d}" for i in range(200))


def changed(text: str) -> float:
    pairs = zip(TEXT.split(" "), text.split(" "), strict=True)
    return float(np.mean([a != b for a, b in pairs]))


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_the_mixs_rate_is_what_was_asked(rate):
    config = TextNoiseConfig(rate=rate, operations=tuple(NOISE))
    shares = [
        changed(mix.corrupt([TEXT], config, example_rng(1, mix.TEXT_NOISE, 0, i))[0])
        for i in range(150)
    ]
    # Two operations may hit one word: 1 - prod(1 - rate / 4) is a little below the rate.
    assert np.mean(shares) == pytest.approx(1 - (1 - rate / 4) ** 4, rel=0.05)


def test_every_operation_has_an_equal_share(monkeypatch):
    seen = []
    operations = ("char_insert", "word_order", "char_delete")
    for name in operations:
        monkeypatch.setitem(
            NOISE._entries, name, lambda text, rng, rate, n=name: seen.append((n, rate)) or text
        )
    config = TextNoiseConfig(rate=0.06, operations=operations)
    mix.corrupt(["a b", "c d"], config, np.random.default_rng(0))
    assert seen == [(name, pytest.approx(0.02)) for name in operations] * 2


def test_unit_example_hits_a_share_of_the_examples_with_one_operation(monkeypatch):
    config = TextNoiseConfig(rate=0.25, unit="example", strength=0.4, operations=tuple(NOISE))
    used: list[str] = []
    for name in tuple(NOISE):
        original = NOISE[name]
        monkeypatch.setitem(
            NOISE._entries,
            name,
            lambda text, rng, rate, n=name, f=original: used.append(n) or f(text, rng, rate),
        )
    hits = []
    for i in range(1200):
        used.clear()
        first, second = mix.corrupt([TEXT, TEXT], config, example_rng(1, mix.TEXT_NOISE, 0, i))
        hits.append(used[0] if used else None)
        assert len(set(used)) <= 1
        if used:
            assert changed(first) == pytest.approx(0.4, abs=0.2)
            assert first != second
        else:
            assert first == second == TEXT
    assert np.mean([h is not None for h in hits]) == pytest.approx(0.25, abs=0.04)
    counts = [hits.count(name) for name in NOISE]
    assert min(counts) > 0.6 * max(counts)


def test_rate_zero_is_the_identity():
    for unit in ({"unit": "word"}, {"unit": "example", "strength": 0.5}):
        config = TextNoiseConfig(rate=0.0, **unit)
        assert mix.corrupt([TEXT, ""], config, np.random.default_rng(0)) == [TEXT, ""]


def test_unknown_operation_is_refused_by_its_key():
    mix.check_operations(NoiseConfig())
    config = NoiseConfig(data=DataNoiseConfig(operations=("char_delet",)))
    with pytest.raises(LopeError, match=r"noise\.data\.operations.*'char_delete'"):
        mix.check_operations(config)


def test_noise_needs_no_torch():
    code = "import sys, lope_dist.noise.mix as m; list(m.NOISE); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
