"""The lm-eval model `lope`: a run folder, with the expert mask as an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from lope_dist.core.errors import LopeError
from lope_dist.evaluate.harness.answers import KeptAnswers, agree, as_answer, refuse_other_requests
from lope_dist.evaluate.harness.arguments import (
    check_arguments,
    check_device,
    template_arguments,
    tokenizer_with,
)
from lope_dist.evaluate.harness.batching import likelihood_batches, text_batches
from lope_dist.evaluate.harness.cache import use_table_of
from lope_dist.evaluate.harness.facts import model_facts
from lope_dist.evaluate.harness.logits_kept import first_needed, trims_logits
from lope_dist.evaluate.loaded.load import LoadedRun, load_run
from lope_dist.evaluate.loaded.parallel import answer_batches, is_main
from lope_dist.evaluate.loaded.prompts import ends_of_answer
from lope_dist.evaluate.loaded.rows import Row, rows_for, usual_answer

_HFLM: Any = HFLM  # its own registration hides its type
_PROBE = "The quick brown fox jumps over the lazy dog."


class LopeLM(_HFLM):
    """lm-eval's Hugging Face model over a LoPE run.

    Args:
        run: A run folder, or one already loaded.
        experts: The row to answer as: a word of `rows_for`; None: `usual_answer`.
        device: That of lm-eval's `--device`; the weights are where they were loaded.
        arguments: What `HFLM` takes and what acts on a run: `batch_size`, `max_length`, ...; a
            `batch_size` of `auto` is as many requests as make `TOKENS_AT_ONCE` (`HFLM` would try
            sizes out on the device).

    Raises:
        LopeError: an argument that would have no effect; what `load_run`, `rows_for` and `choose`
            raise.
    """

    def __init__(
        self,
        run: str | Path | LoadedRun,
        experts: str | None = None,
        device: str | None = None,
        **arguments: Any,
    ) -> None:
        check_arguments(arguments)
        loaded = run if isinstance(run, LoadedRun) else load_run(run, experts=experts)
        check_device(device, loaded.model.device)
        tokenizer = tokenizer_with(arguments, loaded.tokenizer, loaded.config.model)
        with _tied_as_loaded(loaded.model):
            super().__init__(pretrained=loaded.model, tokenizer=tokenizer, **arguments)
        if loaded.model.generation_config is not None:
            loaded.model.generation_config.eos_token_id = ends_of_answer(loaded)
        self.run = loaded
        self._arguments = {k: v for k, v in arguments.items() if k != "batch_size"}
        self._kept: KeptAnswers | None = None
        self._title = ""
        self._size_now = 1
        self._first_needed = 0
        self._can_trim = False
        is_purified = loaded.context.is_purified
        adapter = loaded.config.adapter
        word = experts or usual_answer(adapter, is_purified=is_purified)
        self._row = rows_for([word], adapter, is_purified=is_purified)[0]
        self.choose(self._row)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What results say of the model; see `model_facts`."""
        return model_facts(self.run)

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Take lm-eval's cache of `--use_cache`; see `cache`."""
        super().set_cache_hook(cache_hook)
        self._name_cache()

    def _name_cache(self) -> None:
        cache = getattr(self.cache_hook, "dbdict", None)
        if cache is not None:
            use_table_of(cache, [self.get_model_info(), self._arguments])

    def apply_chat_template(self, *arguments: Any, **options: Any) -> str:
        """Return messages as in training, unless lm-eval's own arguments say otherwise."""
        of_run = template_arguments(self.tokenizer, self.run.config.data)
        self.chat_template_args = of_run | self.chat_template_args
        return super().apply_chat_template(*arguments, **options)

    def choose(self, row: Row) -> None:
        """Answer from now on with the row's experts.

        Raises:
            LopeError: the adapter changes nothing: its logits equal the base model's; or there are
                logits that are not finite.
        """
        answering = self.run.context.answering
        with self.run.together():
            with answering("none"):
                base = answer = self._probe()
            with answering(row):
                if row.experts != "none":
                    answer = self._probe()
                self._can_trim = trims_logits(self.model, self._probe, answer)
        if not answer.isfinite().all():
            raise LopeError(
                f"With experts '{row.experts}' the logits of {self.run.checkpoint.folder} are not "
                "finite, so scores would mean nothing: base weights or adapter hold NaN or "
                "infinite values; train the run again with a smaller learning rate."
            )
        if row.experts != "none" and torch.equal(answer, base):
            raise LopeError(
                f"With experts '{row.experts}' the adapter of {self.run.checkpoint.folder} gives "
                "exactly the base model's logits: it is not applied or not trained, so its scores "
                "would be the base model's."
            )
        self._row = row
        self._name_cache()

    def loglikelihood(self, requests: list[Any], **options: Any) -> list[Any]:
        """Return (log-likelihood, is greedy) of each request. Collective: yes."""
        return super().loglikelihood(requests, **self._quietly(options))

    def loglikelihood_rolling(self, requests: list[Any], **options: Any) -> list[Any]:
        """Return each text's log-likelihood. Collective: yes."""
        texts = [request.args[0] for request in requests]
        lengths = [len(self.tok_encode(text)) + 1 for text in texts]
        batches = text_batches(lengths, texts, [None] * len(texts), self.batch_size)
        answer = super().loglikelihood_rolling

        def answer_batch(batch: list[int]) -> list[Any]:
            self._size_now = len(batch)
            return answer([requests[i] for i in batch], disable_tqdm=True)

        return self._answer(
            "loglikelihood_rolling", [r.args for r in requests], batches, answer_batch, options
        )

    def generate_until(self, requests: list[Any], **options: Any) -> list[Any]:
        """Return each request's generated text. Collective: yes."""
        texts, settings = [r.args[0] for r in requests], [r.args[1] for r in requests]
        lengths = [
            min(
                len(self.tok_encode(text)) + decoding.get("max_gen_toks", self.max_gen_toks),
                self.max_length,
            )
            for text, decoding in zip(texts, settings, strict=True)
        ]
        batches = text_batches(lengths, texts, settings, self.batch_size)
        answer = super().generate_until

        def answer_batch(batch: list[int]) -> list[Any]:
            self._size_now = len(batch)
            torch.manual_seed(batch[0])  # what is drawn depends on the batch, not on the rank
            return answer([requests[i] for i in batch], disable_tqdm=True)

        return self._answer(
            "generate_until", [r.args for r in requests], batches, answer_batch, options
        )

    @contextmanager
    def keeping(self, answers: KeptAnswers, title: str = "") -> Iterator[KeptAnswers]:
        """Keep every answer on disk, and give those that are there already, within the block.

        ``title`` stands before the bar.
        """
        self._title = title
        hook, self.cache_hook, self._kept = self.cache_hook, answers, answers
        try:
            yield answers
        finally:
            self.cache_hook, self._kept = hook, None
            answers.close()

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[Any]:
        """Return the answers to encoded requests, or to windows of texts that are in a batch."""
        answer = super()._loglikelihood_tokens
        if not requests or requests[0][0] is None:
            return answer(requests, disable_tqdm=True, override_bs=override_bs)
        shares_rows = self.backend == "causal" and self.logits_cache
        batches = likelihood_batches(requests, self.batch_size, shares_rows=shares_rows)

        def answer_batch(batch: list[int]) -> list[Any]:
            encoded = [requests[i] for i in batch]
            self._first_needed = first_needed(encoded, self.max_length) if self._can_trim else 0
            try:
                return answer(encoded, disable_tqdm=True, override_bs=len(encoded))
            finally:
                self._first_needed = 0

        arguments = [request[0] for request in requests]
        return self._answer(
            "loglikelihood", arguments, batches, answer_batch, {"disable_tqdm": disable_tqdm}
        )

    def _answer(
        self,
        kind: str,
        arguments: list[Any],
        batches: list[list[int]],
        answer: Callable[[list[int]], list[Any]],
        options: dict[str, Any],
    ) -> list[Any]:
        """Return kept answers and, for batches that are not whole, new ones from the ranks."""
        answers = self._kept.find(kind, arguments) if self._kept is not None else {}
        if self.run.world is not None:
            refuse_other_requests(kind, arguments, self.run.world)
            answers = agree(answers, self.run.world)
        open_batches = [batch for batch in batches if not answers.keys() >= set(batch)]
        of_batches = answer_batches(
            self.run,
            open_batches,
            answer,
            title=self._title or kind,
            progress=not options.get("disable_tqdm", False),
        )
        for batch, new in zip(open_batches, of_batches, strict=True):
            answers |= dict(zip(batch, map(as_answer, new), strict=True))
        return [answers[i] for i in range(len(arguments))]

    def _quietly(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return lm-eval's options for a rank that shows a bar, or none."""
        is_silent = options.get("disable_tqdm", False) or not is_main(self.run.world)
        return options | {"disable_tqdm": is_silent}

    def _detect_batch_size(self, requests: Any = None, pos: int = 0) -> int:
        """Return the size of the batch that is under way; lm-eval would try sizes out."""
        return self._size_now

    def _model_call(
        self,
        inps: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return logits as `HFLM` does, but keep no cache, and no logits that nobody reads."""
        with self.run.context.answering(self._row):
            if labels is not None:
                return super()._model_call(inps, attn_mask, labels)
            dtype = self.mixed_precision_dtype
            num_kept = inps.shape[1] - self._first_needed
            trimmed = {"logits_to_keep": num_kept} if self._first_needed else {}
            autocast = torch.autocast(self.device.type, dtype, enabled=dtype is not None)
            with torch.no_grad(), autocast:
                return self.model(inps, use_cache=False, **trimmed).logits

    def _model_generate(self, *arguments: Any, **options: Any) -> torch.Tensor:
        with self.run.context.answering(self._row):
            return super()._model_generate(*arguments, **options)

    def _probe(self, **options: Any) -> torch.Tensor:
        ids = self.tokenizer(_PROBE, return_tensors="pt").input_ids.to(self.device)
        more = {"decoder_input_ids": ids} if self.model.config.is_encoder_decoder else {}
        return self.model(input_ids=ids, **more, **options).logits

    def get_model_info(self) -> dict[str, Any]:
        """Return what lm-eval records of the model: base, run and row."""
        facts, row = self.facts, self._row
        return {
            "model_num_parameters": facts["base_parameters"] + facts["adapter_parameters"],
            "model_dtype": str(self.run.model.dtype),
            "model_revision": facts["base_revision"],
            "model_sha": facts["base_sha"],
            **facts,
            "adapter_sha256": self.run.checkpoint.adapter_sha256,
            "checkpoint": self.run.checkpoint.folder.name,
            "experts": row.experts,
            "compensation": row.compensation.mode,
            "top_k": row.compensation.top_k,
            "beta": row.compensation.beta,
            "scale": row.scale,
            "poison_scale": row.poison_scale,
        }


@contextmanager
def _tied_as_loaded(model: Any) -> Iterator[None]:
    """Context in which `HFLM` ties no weights: a head may be apart in the files, or adapted."""
    model.tie_weights = lambda *_, **__: None
    try:
        yield
    finally:
        del model.tie_weights


register_model("lope")(LopeLM)
