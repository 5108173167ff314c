"""Both stages on a tiny T5: no shift of labels, noise on the encoder's input alone."""

import pytest
from support.tiny import save_tiny_t5

from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import read_json, read_lines
from lope_dist.train.session import train


@pytest.fixture(scope="module")
def tiny_t5(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny_t5")
    save_tiny_t5(folder)
    return str(folder)


def test_both_stages_train_an_encoder_decoder(tiny_config, tiny_t5, losses) -> None:
    changes = {
        "model__name_or_path": tiny_t5,
        "data__packing": False,
        "data__max_length": 512,
        "train__stages__poison__max_steps": 2,
        "train__stages__finetune__max_steps": 8,
    }
    folder = train(tiny_config(**changes))
    values = losses(folder)
    assert len(values) == 10
    assert values[-1] < values[0]
    layers = read_json(folder / "router.json")["finetune"]
    assert any("EncDecAttention" in name for name in layers)
    assert any(name.startswith("encoder.") for name in layers)


def test_marks_are_of_what_the_encoder_reads(tiny_config, tiny_t5) -> None:
    """The loss is of corrupted answers; the router's usage is counted by the encoder's marks."""
    changes = {
        "model__name_or_path": tiny_t5,
        "data__packing": False,
        "data__max_length": 512,
        "noise__data__rate": 0.3,
        "train__stages__poison__max_steps": 1,
        "train__stages__poison__loss_on": "corrupted",
        "train__stages__finetune__max_steps": 6,
    }
    folder = train(tiny_config(**changes))
    poison, *finetune = read_lines(folder / "metrics.jsonl")
    assert 0 < poison["target_tokens"] < finetune[0]["target_tokens"]
    weights = read_json(folder / "router.json")
    assert set(weights["poison_weight"]) == {"poison", "finetune"}
    marked = set(weights["poison_weight"]["finetune"]["corrupted"])
    assert any("encoder." in name for name in marked)
    assert not any(name.startswith("decoder.") and "SelfAttention" in name for name in marked)
    assert any(name.startswith("decoder.") for name in set(weights["finetune"]) - marked)


def test_packing_is_refused_before_the_folder_is_claimed(tiny_config, tiny_t5, tmp_path) -> None:
    with pytest.raises(LopeError, match=r"data\.packing"):
        train(tiny_config(model__name_or_path=tiny_t5, data__packing=True))
    assert not (tmp_path / "run").exists()
