import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError
from support.noise_ops import TEXT_OPERATIONS

from lope_dist.config.noise import PRESETS, DataNoiseConfig, NoiseConfig, TextNoiseConfig
from lope_dist.core.errors import LopeError
from lope_dist.noise import mix

TEXT = " ".join(f"word{i:03d}" for i in range(200))


def corrupt(texts, config, seed=1):
    keys = mix.example_keys(seed, mix.TEXT_NOISE, 0, range(len(texts)))
    return mix.corrupt(texts, range(len(texts)), [0] * len(texts), keys, config)


def counts(result):
    total = Counter()
    for _, name, count in result.hits:
        total[name] += count
    return total


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_a_list_means_equal_shares_and_a_word_is_hit_once(rate):
    operations = ("word_order", "char_insert", "char_delete")
    result = corrupt([TEXT] * 300, TextNoiseConfig(rate=rate, operations=operations))
    changed = [
        np.mean([a != b for a, b in zip(TEXT.split(), text.split(), strict=True)])
        for text in result.texts
    ]
    assert np.mean(changed) == pytest.approx(rate, rel=0.03)
    for count in counts(result).values():
        assert count / (300 * 200) == pytest.approx(rate / 3, rel=0.08)


def test_a_mapping_means_weights_and_the_order_of_names_does_not_matter():
    config = TextNoiseConfig(rate=0.2, operations={"word_order": 1, "keyboard": 3, "ocr": 0})
    result = corrupt([TEXT] * 300, config)
    assert counts(result)["keyboard"] / (300 * 200) == pytest.approx(0.15, rel=0.05)
    assert counts(result)["word_order"] / (300 * 200) == pytest.approx(0.05, rel=0.08)
    assert "ocr" not in counts(result)
    other = TextNoiseConfig(rate=0.2, operations={"keyboard": 6, "word_order": 2})
    assert corrupt([TEXT] * 300, other) == result


@pytest.mark.parametrize("num_words", [2, 3, 4, 5, 10])
def test_word_order_rate_holds_in_short_texts_beside_another_operation(num_words):
    text = " ".join(f"w{i}x" for i in range(num_words))
    config = TextNoiseConfig(rate=0.4, operations=("word_order", "char_double"))
    found = counts(corrupt([text] * 8000, config))
    for name in config.shares:
        assert found[name] / (8000 * num_words) == pytest.approx(0.2, abs=0.012)


def test_unit_example_hits_a_share_of_the_examples_with_one_operation():
    config = TextNoiseConfig(
        rate=0.25, unit="example", strength=0.4, operations=tuple(TEXT_OPERATIONS)
    )
    text = "There, We Know That Two Words Are: Right; By The Sea! " * 8
    result = corrupt([text] * 2400, config)
    by_text = {}
    for number, name, count in result.hits:
        by_text.setdefault(number, Counter())[name] += count
    assert all(len(found) == 1 for found in by_text.values())
    assert len(by_text) / 2400 == pytest.approx(0.25, abs=0.03)
    share = np.mean([sum(found.values()) / len(text.split()) for found in by_text.values()])
    assert share == pytest.approx(0.4, abs=0.03)
    per_operation = Counter(next(iter(found)) for found in by_text.values())
    assert min(per_operation.values()) > 0.4 * max(per_operation.values())
    assert set(per_operation) == set(TEXT_OPERATIONS)


def test_rate_zero_is_the_identity():
    for unit in (
        {},
        {"unit": "character", "operations": ("ocr",)},
        {"unit": "example", "strength": 0.5},
    ):
        texts = [TEXT, ""]
        result = corrupt(texts, TextNoiseConfig(rate=0.0, **unit))
        assert all(a is b for a, b in zip(result.texts, texts, strict=True))
        assert result.hits == []


def test_a_hit_moves_on_to_a_word_that_can_take_it_in_any_text_of_the_example():
    keys = mix.example_keys(2, "test", 0, [0])
    config = TextNoiseConfig(rate=0.3, operations=("case_loss",))
    texts = ["no capital in this one at all, not one", "And HERE Are Some"]
    found = mix.corrupt(texts, [0, 0], [0, 1], keys, config)
    assert found.texts[0] == texts[0]
    assert 2 <= sum(count for _, _, count in found.hits) <= 4
    assert {number for number, _, _ in found.hits} == {1}


FROZEN = [
    "The to us, of hear snd noe, know know what Modern times mean.",
    "Größe üebt cafe\u0301 ja ja",
]


def test_frozen():
    """A change here changes every noisy corpus ever made."""
    config = TextNoiseConfig(rate=0.5, operations=tuple(TEXT_OPERATIONS))
    texts = [
        "The two of us, here and now, know what Modern times mean.",
        "Größe übt cafe\u0301 👍🏽 ja",
    ]
    assert corrupt(texts, config, seed=614).texts == FROZEN


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"data": {"operations": ["char_delet"]}}, r"noise\.data\.operations.*'char_delete'"),
        (
            {"text": {"operations": ["wrong_label"]}},
            r"noise\.text\.operations.*responses\.operations",
        ),
        ({"text": {"responses": {"operations": ["ocr"]}}}, r"noise\.text\.responses.*wrong_label"),
        ({"text": {"unit": "character"}}, r"'word_order' .*'character'.*keyboard"),
    ],
)
def test_operations_that_do_not_fit_are_refused_by_their_key(config, words):
    mix.check_operations(NoiseConfig())
    with pytest.raises(LopeError, match=words):
        mix.check_operations(NoiseConfig.model_validate(config))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_runnable_and_read_back(preset):
    config = NoiseConfig.model_validate({"preset": preset})
    mix.check_operations(config)
    assert NoiseConfig.model_validate(config.model_dump(mode="json")) == config


def test_the_papers_preset_is_the_papers():
    config = NoiseConfig.model_validate({"preset": "paper", "data": {"rate": 0.05}})
    assert config.text == TextNoiseConfig(
        rate=0.05, operations=("word_order", "char_insert", "char_delete")
    )
    assert config.text.shares == pytest.approx(dict.fromkeys(config.text.shares, 1 / 3))
    assert (config.embedding.alpha, config.embedding.scale) == (0.05, "paper")
    assert config.data == DataNoiseConfig(rate=0.05)


def test_a_preset_and_another_value_of_a_key_it_sets_is_an_error():
    with pytest.raises(ValidationError, match=r"text\.rate = 0\.1 with preset = 'paper'"):
        NoiseConfig.model_validate({"preset": "paper", "text": {"rate": 0.1}})
    same = NoiseConfig.model_validate({"preset": "paper", "text": {"rate": 0.05}})
    assert same.text.rate == 0.05
    assert (
        NoiseConfig.model_validate({"preset": "ocr", "text": {"rate": 0.1}}).text.unit
        == "character"
    )


@pytest.mark.parametrize(
    "operations", [[], {}, {"ocr": -1}, {"ocr": 0}, ["ocr", "ocr"], "ocr", {"ocr": "x"}, [1]]
)
def test_malformed_operations_are_refused(operations):
    with pytest.raises(ValidationError, match="operations"):
        TextNoiseConfig.model_validate({"operations": operations})


def test_noise_needs_no_torch():
    code = "import sys, lope_dist.noise.mix as m; list(m.NOISE); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
