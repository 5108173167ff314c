import pytest

from lope_dist.config.adapter import AdapterConfig, CompensationConfig
from lope_dist.core.errors import LopeError
from lope_dist.evaluate.rows import rows_for

ADAPTER = AdapterConfig(compensation=CompensationConfig(mode="unit", top_k=2))


def test_rows_are_named_and_ordered_as_asked() -> None:
    rows = rows_for(["all", "none", "masked_plain", "masked"], ADAPTER)
    assert [(r.name, r.experts, r.compensation.mode) for r in rows] == [
        ("lope_unmasked", "all", "none"),
        ("base", "none", "none"),
        ("lope_masked_plain", "masked", "none"),
        ("lope_masked", "masked", "unit"),
    ]
    assert rows[-1].compensation == ADAPTER.compensation


def test_an_unknown_word_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(LopeError) as caught:
        rows_for(["none", "maskd"], ADAPTER)
    message = str(caught.value)
    assert "'maskd' is not known; allowed: none, masked_plain, masked, all." in message
    assert message.endswith("Did you mean 'masked'?")


@pytest.mark.parametrize("word", ["masked", "masked_plain"])
def test_nothing_to_mask_is_refused(word: str) -> None:
    adapter = AdapterConfig(num_poison=0)
    with pytest.raises(LopeError, match="no poisoning expert to mask; use --experts all"):
        rows_for([word], adapter)
    assert [row.name for row in rows_for(["all", "none"], adapter)] == ["lope_unmasked", "base"]
