"""The lm-eval model `lope`: a run folder, with the expert mask as an argument."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from lope_dist.core.errors import LopeError
from lope_dist.engine.world import World
from lope_dist.evaluate.load import LoadedRun, load_run
from lope_dist.evaluate.parallel import answer_together
from lope_dist.evaluate.rows import Row, rows_for

_HFLM: Any = HFLM  # its own registration hides its type
_PROBE = "The quick brown fox jumps over the lazy dog."


class LopeLM(_HFLM):
    """lm-eval's Hugging Face model over a LoPE run.

    Args:
        run: A run folder, or one already loaded.
        experts: The row to answer as: a word of `rows_for`.
        world: The ranks that share the requests out among themselves; None: this process alone.
        kwargs: What `HFLM` takes: `batch_size`, `max_length`, ...

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
        self.choose(rows_for([experts], loaded.config.adapter)[0])

    def choose(self, row: Row) -> None:
        """Answer from now on with the row's experts.

        Raises:
            LopeError: the adapter changes nothing: its logits equal the base model's.
        """
        context = self.run.context
        context.experts = "none"
        base = self._probe()
        row.apply(context)
        if row.experts != "none" and torch.equal(self._probe(), base):
            raise LopeError(
                f"With experts '{row.experts}' the adapter of {self.run.checkpoint.folder} gives "
                "exactly the base model's logits: it is not applied or not trained, so its "
                "scores would be the base model's."
            )

    def loglikelihood(self, requests: list[Any], **options: Any) -> list[Any]:
        """Return (log-likelihood, is greedy) of each request. Collective: yes."""
        return self._answer(super().loglikelihood, requests, options)

    def loglikelihood_rolling(self, requests: list[Any], **options: Any) -> list[Any]:
        """Return each text's log-likelihood. Collective: yes."""
        return self._answer(super().loglikelihood_rolling, requests, options)

    def generate_until(self, requests: list[Any], **options: Any) -> list[Any]:
        """Return each request's generated text. Collective: yes."""
        return self._answer(super().generate_until, requests, options)

    def _answer(
        self, answer: Callable[..., list[Any]], requests: list[Any], options: dict[str, Any]
    ) -> list[Any]:
        if self._world is None:
            return answer(requests, **options)
        options["disable_tqdm"] = options.get("disable_tqdm", False) or not self._world.is_main
        return answer_together(self._world, requests, lambda own: answer(own, **options))

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
        }


register_model("lope")(LopeLM)
