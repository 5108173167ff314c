"""The lm-eval model `lope`: a run folder, with the expert mask as an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from lope_dist.core.errors import LopeError
from lope_dist.engine.world import World
from lope_dist.evaluate.answers import KeptAnswers, agree
from lope_dist.evaluate.load import LoadedRun, load_run
from lope_dist.evaluate.parallel import answer_together
from lope_dist.evaluate.rows import Row, rows_for

_HFLM: Any = HFLM  # its own registration hides its type
TOKENS_AT_ONCE = 4096
"""Of a forward pass with `batch_size="auto"`, padding included."""
_PROBE = "The quick brown fox jumps over the lazy dog."


class LopeLM(_HFLM):
    """lm-eval's Hugging Face model over a LoPE run.

    Args:
        run: A run folder, or one already loaded.
        experts: The row to answer as: a word of `rows_for`.
        world: The ranks that share the requests out among themselves; None: this process alone.
        kwargs: What `HFLM` takes: `batch_size`, `max_length`, ...; a `batch_size` of `auto` is as
            many requests as make `TOKENS_AT_ONCE` (`HFLM` would try sizes out on the device).

    Raises:
        LopeError: what `load_run`, `rows_for` and `choose` raise.
    """

    def __init__(
        self,
        run: str | Path | LoadedRun,
        experts: str = "masked",
        world: World | None = None,
        **kwargs: Any,
    ) -> None:
        loaded = run if isinstance(run, LoadedRun) else load_run(Path(run))
        kwargs.pop("device", None)  # the weights are where they were loaded
        super().__init__(pretrained=loaded.model, tokenizer=loaded.tokenizer, **kwargs)
        self.run, self._world = loaded, world
        self._kept: KeptAnswers | None = None
        self._auto_start = self._auto_size = 0  # of the current batch, with batch_size="auto"
        self._longest = self.max_length  # of the prompts to be continued
        is_purified = loaded.context.is_purified
        self.choose(rows_for([experts], loaded.config.adapter, is_purified=is_purified)[0])

    def choose(self, row: Row) -> None:
        """Answer from now on with the row's experts.

        Raises:
            LopeError: the adapter changes nothing: its logits equal the base model's; or there are
                logits that are not finite.
        """
        context = self.run.context
        context.experts = "none"
        base = answer = self._probe()
        row.apply(context)
        if row.experts != "none":
            answer = self._probe()
        if not answer.isfinite().all():
            raise LopeError(
                f"With experts '{row.experts}' the logits of {self.run.checkpoint.folder} are not "
                "finite, so its scores would mean nothing: base weights or adapter hold such "
                "values; train it again with a smaller lr."
            )
        if row.experts != "none" and torch.equal(answer, base):
            raise LopeError(
                f"With experts '{row.experts}' the adapter of {self.run.checkpoint.folder} gives "
                "exactly the base model's logits: it is not applied or not trained, so its "
                "scores would be the base model's."
            )

    def loglikelihood(self, requests: list[Any], **options: Any) -> list[Any]:
        """Return (log-likelihood, is greedy) of each request. Collective: yes."""
        return self._answer("loglikelihood", super().loglikelihood, requests, options)

    def loglikelihood_rolling(self, requests: list[Any], **options: Any) -> list[Any]:
        """Return each text's log-likelihood. Collective: yes."""
        answer = super().loglikelihood_rolling
        return self._answer("loglikelihood_rolling", answer, requests, options)

    def generate_until(self, requests: list[Any], **options: Any) -> list[Any]:
        """Return each request's generated text. Collective: yes."""
        answer = super().generate_until
        if self.batch_size == "auto":
            lengths = [
                len(self.tok_encode(prompt)) + settings.get("max_gen_toks", self.max_gen_toks)
                for prompt, settings in (request.args for request in requests)
            ]
            self._longest = min(max(lengths, default=1), self.max_length)
        return self._answer("generate_until", answer, requests, options)

    @contextmanager
    def keeping(self, answers: KeptAnswers) -> Iterator[KeptAnswers]:
        """Keep every answer on disk, and give those that are there already, within the block."""
        hook, self.cache_hook, self._kept = self.cache_hook, answers, answers
        try:
            yield answers
        finally:
            self.cache_hook, self._kept = hook, None
            answers.close()

    def _answer(
        self,
        kind: str,
        answer: Callable[..., list[Any]],
        requests: list[Any],
        options: dict[str, Any],
    ) -> list[Any]:
        """Return kept answers and, for the rest, new ones from the ranks together."""
        known = self._kept.find(kind, requests) if self._kept is not None else {}
        if self._world is None:
            open_requests = [r for i, r in enumerate(requests) if i not in known]
            given = answer(open_requests, **options) if open_requests else []
        else:
            known = agree(known, self._world)
            open_requests = [r for i, r in enumerate(requests) if i not in known]
            quiet = options.pop("disable_tqdm", False) or not self._world.is_main
            given = answer_together(
                self._world, open_requests, lambda own: answer(own, disable_tqdm=quiet, **options)
            )
        new = iter(given)
        return [known[i] if i in known else next(new) for i in range(len(requests))]

    def _batch_scheduler(self, pos: int, n_reordered_requests: Any) -> int:
        """Return the size of the batch that request number ``pos`` is in; the longest come first.

        lm-eval asks for one position after the other and ends the batch once it is as large.
        """
        if pos == 0 or pos == self._auto_start + self._auto_size:
            _, context, continuation = n_reordered_requests[pos]
            self._auto_start = pos
            self._auto_size = max(1, TOKENS_AT_ONCE // (len(context) + len(continuation)))
        return self._auto_size

    def _detect_batch_size(self, requests: Any = None, pos: int = 0) -> int:
        """Return the size of batches of generation: all of them are this large."""
        return max(1, TOKENS_AT_ONCE // self._longest)

    @torch.no_grad()
    def _probe(self) -> torch.Tensor:
        ids = self.tokenizer(_PROBE, return_tensors="pt").input_ids.to(self.device)
        more = {"decoder_input_ids": ids} if self.model.config.is_encoder_decoder else {}
        return self.model(input_ids=ids, **more).logits

    def get_model_info(self) -> dict[str, Any]:
        """Return what lm-eval records of the model, with the adapter's identity."""
        return super().get_model_info() | {
            "adapter_sha256": self.run.checkpoint.adapter_sha256,
            "experts": self.run.context.experts,
            "compensation": self.run.context.compensation.mode,
            "scale": self.run.context.scale,
            "poison_scale": self.run.context.poison_scale,
        }


register_model("lope")(LopeLM)
