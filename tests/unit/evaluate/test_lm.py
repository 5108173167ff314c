"""The lm-eval model: what each choice of experts answers."""

from __future__ import annotations

import itertools

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from lope_dist.core.errors import LopeError
from lope_dist.evaluate.harness.lm import LopeLM
from lope_dist.evaluate.loaded.rows import rows_for
from lope_dist.model.build import load_model
from lope_dist.model.placement import Replicated
from lope_dist.train.session import train

TEXTS = [
    ("Add one and two.", " Three."),
    ("Add one and two.", " Four, as I said."),
    ("", "Hello"),
    ("A much longer question, so that rows are padded: what is it? ", "Yes"),
    ("Räksmörgås", " is a sandwich."),
]


def likelihoods(lm: HFLM) -> list[tuple[float, bool]]:
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(TEXTS)]
    return lm.loglikelihood(requests, disable_tqdm=True)


def stock(folder: str, quantized: bool) -> HFLM:
    """lm-eval's own `hf` model over transformers' own loading."""
    settings = {}
    if quantized:
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
            bnb_4bit_quant_storage=torch.float32,
        )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **settings)
    layers = [m for m in model.modules() if isinstance(m, Linear4bit)]
    assert bool(layers) == quantized
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False  # would repack the weights on some CPUs
    return HFLM(model.eval(), tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=2)


@pytest.fixture(scope="module")
def lm(loaded) -> LopeLM:
    return LopeLM(loaded, "all", batch_size=2)


@pytest.fixture
def choose(lm):
    def choose(word: str) -> list[tuple[float, bool]]:
        lm.choose(rows_for([word], lm.run.config.adapter)[0])
        return likelihoods(lm)

    return choose


def test_every_choice_of_experts_answers_otherwise(choose) -> None:
    words = ("none", "masked_plain", "masked", "all")
    answers = {word: [value for value, _ in choose(word)] for word in words}
    for one, other in itertools.combinations(words, 2):
        assert answers[one] != pytest.approx(answers[other], rel=1e-6), (one, other)


def test_choices_leave_no_trace(choose) -> None:
    first = choose("masked")
    for word in ("none", "all", "masked_plain"):
        choose(word)
    assert choose("masked") == first


def test_without_experts_it_is_the_stock_model_quantized_too(trained, choose) -> None:
    expected = likelihoods(stock(trained.config.model.name_or_path, quantized=True))
    assert choose("none") == expected


def test_without_experts_its_logits_are_the_bases_bit_for_bit(trained, lm, choose) -> None:
    base = load_model(trained.config.model, Replicated(torch.device("cpu")), progress=False)
    ids = torch.arange(60).view(2, 30)
    choose("none")
    with torch.no_grad():
        assert torch.equal(lm._model_call(ids), base(ids).logits)
        choose("all")
        assert not torch.equal(lm._model_call(ids), base(ids).logits)


def test_without_experts_it_is_the_stock_model_unquantized(tiny_config) -> None:
    config = tiny_config(
        model__quantization="none",
        train__stages__poison__max_steps=1,
        train__stages__finetune__max_steps=1,
    )
    lm = LopeLM(train(config), "none", batch_size=2)
    assert likelihoods(lm) == likelihoods(stock(config.model.name_or_path, quantized=False))


def test_an_adapter_that_changes_nothing_is_refused(lm) -> None:
    experts = [p for n, p in lm.run.model.named_parameters() if "lope.B." in n]
    held = [p.detach().clone() for p in experts]
    try:
        for parameter in experts:
            parameter.data.zero_()
        for word in ("masked", "masked_plain", "all"):
            with pytest.raises(LopeError, match=r"2-finetune "):
                lm.choose(rows_for([word], lm.run.config.adapter)[0])
        lm.choose(rows_for(["none"], lm.run.config.adapter)[0])
    finally:
        for parameter, value in zip(experts, held, strict=True):
            parameter.data.copy_(value)


def test_logits_that_are_not_finite_are_refused(lm) -> None:
    parameter = next(p for n, p in lm.run.model.named_parameters() if "lope.B.normal_" in n)
    held = parameter.detach().clone()
    try:
        parameter.data.fill_(float("nan"))
        with pytest.raises(LopeError, match=r"experts 'all' .*2-finetune"):
            lm.choose(rows_for(["all"], lm.run.config.adapter)[0])
    finally:
        parameter.data.copy_(held)


def test_masked_normal_experts_that_nobody_trained_are_refused(lm) -> None:
    """Stage I alone: unmasked it differs from the base, masked it does not."""
    names = [n for n, _ in lm.run.model.named_parameters() if "lope.B.normal_" in n]
    parameters = dict(lm.run.model.named_parameters())
    held = {name: parameters[name].detach().clone() for name in names}
    try:
        for name in names:
            parameters[name].data.zero_()
        lm.choose(rows_for(["all"], lm.run.config.adapter)[0])
        with pytest.raises(LopeError, match="not trained"):
            lm.choose(rows_for(["masked"], lm.run.config.adapter)[0])
    finally:
        for name in names:
            parameters[name].data.copy_(held[name])


def test_lm_eval_finds_it_by_name_and_takes_a_folder(trained) -> None:
    lm = get_model("lope").create_from_arg_string(
        f"run={trained.folder},experts=all", {"batch_size": 1, "device": "cpu"}
    )
    assert isinstance(lm, LopeLM)
    assert lm.run.context.answer.experts == "all"
    info = lm.get_model_info()
    assert info["adapter_sha256"] == lm.run.checkpoint.adapter_sha256
    assert len(info["adapter_sha256"]) == 64
    assert info["experts"] == "all"


def test_an_unknown_choice_is_refused(loaded) -> None:
    with pytest.raises(LopeError, match=r"--experts: 'al' .* all, base"):
        LopeLM(loaded, "al")
