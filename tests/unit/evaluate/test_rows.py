import pytest

from lope_dist.config.adapter import AdapterConfig, CompensationConfig
from lope_dist.config.baselines import AdaLoraConfig
from lope_dist.core.errors import LopeError
from lope_dist.evaluate.loaded.rows import rows_for, usual_answer, usual_words

ADAPTER = AdapterConfig(compensation=CompensationConfig(mode="unit", top_k=2))


def test_rows_are_named_and_ordered_as_asked() -> None:
    rows = rows_for(["all", "none", "masked_plain", "masked"], ADAPTER)
    assert [(r.name, r.experts, r.compensation.mode) for r in rows] == [
        ("all", "all", "none"),
        ("base", "none", "none"),
        ("masked_plain", "masked", "none"),
        ("masked", "masked", "unit"),
    ]
    assert rows[-1].compensation == ADAPTER.compensation


def test_an_unknown_word_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(LopeError) as caught:
        rows_for(["none", "maskd"], ADAPTER)
    message = str(caught.value)
    assert "'maskd'" in message
    assert "masked, masked_plain, masked_normal, all, base" in message
    assert message.endswith("'masked'?")


@pytest.mark.parametrize("word", ["masked", "masked_plain"])
def test_nothing_to_mask_is_refused(word: str) -> None:
    adapter = AdapterConfig(num_poison=0)
    with pytest.raises(LopeError, match="--experts all"):
        rows_for([word], adapter)
    assert [row.name for row in rows_for(["all", "none"], adapter)] == ["all", "base"]


def test_settings_are_read_and_the_word_is_the_name() -> None:
    asked = [
        "masked:mode=conserve:k=1",
        "masked:mode=constant:beta=1.5",
        "masked:k=0",
        "all:scale=0.75",
        "masked_plain:scale=2",
        "masked_normal",
        "base",
    ]
    rows = rows_for(asked, ADAPTER)
    assert [row.name for row in rows] == asked
    assert [row.experts for row in rows] == [
        *["masked"] * 3,
        "all",
        "masked",
        "masked_normal",
        "none",
    ]
    assert rows[0].compensation == CompensationConfig(mode="conserve", top_k=1)
    assert rows[1].compensation == CompensationConfig(mode="constant", top_k=2, beta=1.5)
    assert rows[2].compensation == CompensationConfig(mode="unit", top_k=0)
    assert [row.scale for row in rows] == [1, 1, 1, 0.75, 2, 1, 1]


def test_a_mode_leaves_the_beta_of_the_runs_own_behind() -> None:
    adapter = AdapterConfig(compensation=CompensationConfig(mode="constant", beta=2.0))
    asked = ["masked:mode=unit", "masked:mode=constant", "masked:beta=3"]
    assert [row.compensation.beta for row in rows_for(asked, adapter)] == [None, 2.0, 3.0]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("base:scale=0.5", "'scale=0.5' is not a setting of 'base'; allowed: none"),
        ("all:k=1", "'k=1' is not a setting of 'all'; allowed: scale=, poison="),
        ("all:poison=much", "'poison=much' must be a number."),
        ("masked:poison=0", "'poison=0' is not a setting of 'masked'"),
        ("masked:scal=1", "allowed: mode=, k=, beta=, scale=. Did you mean 'scale'"),
        ("masked:scale", "'scale' is not a setting"),
        ("all:", "'' is not a setting of 'all'"),
        ("all:scale=0", "'scale=0' must be a number above 0"),
        ("all:scale=inf", "must be a number above 0"),
        ("all:scale=half", "must be a number above 0"),
        ("masked:k=-1", "'k=-1' must be a whole number from 0"),
        ("masked:k=4", "top_k = 4 is larger than num_normal = 3"),
        ("masked:k=1:k=2", "'k' is set twice"),
        ("masked:mode=cosine", "input should be 'conserve', 'unit'"),
        ("masked:beta=2", "beta must be given with mode 'constant'"),
        ("masked:mode=constant", "beta must be given with mode 'constant'"),
    ],
)
def test_a_setting_that_cannot_be_is_told(word: str, message: str) -> None:
    with pytest.raises(LopeError) as caught:
        rows_for([word], ADAPTER)
    assert str(caught.value).startswith("--experts ")
    assert message in str(caught.value)


@pytest.mark.parametrize("asked", [["none", "base"], ["masked", "masked"]])
def test_a_row_asked_for_twice_is_refused(asked: list[str]) -> None:
    with pytest.raises(LopeError, match=r"--experts: .*twice"):
        rows_for(asked, ADAPTER)


def test_the_control_needs_two_normal_experts() -> None:
    with pytest.raises(LopeError, match=r"--experts masked_normal: .*--experts all"):
        rows_for(["masked_normal"], AdapterConfig(num_normal=1))
    assert rows_for(["masked_normal"], AdapterConfig(num_normal=2, num_poison=0))
    baseline = AdaLoraConfig()
    with pytest.raises(LopeError, match=r"--experts masked_normal: .*--experts all"):
        rows_for(["masked_normal"], baseline)


@pytest.mark.parametrize("word", ["all", "all:scale=0.5", "masked_normal"])
def test_what_a_purified_export_has_no_experts_for_is_refused(word: str) -> None:
    with pytest.raises(LopeError, match=r"purified, .*--experts masked or base"):
        rows_for(["masked", word], ADAPTER, is_purified=True)
    assert len(rows_for(["masked", "masked_plain", "base"], ADAPTER, is_purified=True)) == 3


def test_the_usual_words_are_those_whose_experts_are_there() -> None:
    words = ("masked", "all", "none")
    plain = AdapterConfig(num_poison=0)
    assert usual_words(words, ADAPTER, is_purified=False) == ["masked", "all", "none"]
    assert usual_words(words, ADAPTER, is_purified=True) == ["masked", "none"]
    assert usual_words(words, plain, is_purified=False) == ["all", "none"]
    assert usual_answer(ADAPTER, is_purified=True) == "masked"
    assert usual_answer(plain, is_purified=False) == "all"


def test_the_poisoning_experts_weight_tells_rows_apart_and_needs_such_an_expert() -> None:
    rows = rows_for(["all", "all:poison=1", "all:poison=-0.5", "all:poison=0"], ADAPTER)
    assert [row.poison_scale for row in rows] == [1, 1, -0.5, 0]
    first, same, *others = (row.identity() for row in rows)
    assert first == same  # and equal to what runs hold that were scored before
    assert first not in others
    assert others[0] != others[1]
    with pytest.raises(LopeError, match="--experts all:poison=0: "):
        rows_for(["all:poison=0"], AdapterConfig(num_poison=0))
