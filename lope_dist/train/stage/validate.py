"""The loss of rows that are never trained on, by row of experts, on the engine that trains."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lope_dist.adapters.rows import row_of
from lope_dist.config.noise import NoiseConfig
from lope_dist.config.train import StageConfig
from lope_dist.core.errors import Diverged, LopeError
from lope_dist.core.roles import Role
from lope_dist.corpus.feed.batches import MicroBatch
from lope_dist.corpus.feed.loader import StageLoader
from lope_dist.engine.base import Engine
from lope_dist.model.families import decoder_start_of
from lope_dist.model.loss_head import loss_head
from lope_dist.train.checkpoint.validation import Measured
from lope_dist.train.objective import targets_of, token_losses
from lope_dist.train.run.setup import Session
from lope_dist.train.stage.untouched import untouched


class Validator:
    """Takes the validation rows' loss between steps of training, which goes on as without it.

    All ranks see each batch's part of all others in one sum, so that they stop together, and a
    rank that hangs is noticed as in training.
    """

    def __init__(self, session: Session) -> None:
        assert session.validation is not None
        self._session = session
        self.num_examples = len(session.validation)
        self.fingerprint = session.validation.fingerprint
        clean = {"shuffle": False, "corpus": None, "sources": (), "path": session.validation.name}
        data = session.config.data.model_copy(update=clean)
        self._loader = StageLoader(
            session.validation,
            session.tokenizer,
            session.config.model_copy(update={"data": data, "noise": NoiseConfig()}),
            StageConfig(trainable=(Role.ADAPTER,)),  # no noise; nothing of it is trained
            rank=session.world.rank,
            world_size=session.world.size,
            decoder_start_token_id=decoder_start_of(session.model.config),
        )

    def measure(self, engine: Engine, base: float | None) -> Measured | None:
        """Return the losses, or None where a stop was asked for meanwhile. Collective: yes.

        ``base``: the base model's loss, if it is known.

        Raises:
            Diverged: a loss that is not finite.
            LopeError: rows in which nothing is learnt.
        """
        session = self._session
        losses: dict[str, float] = {}
        tokens = 0
        with engine.as_saved(), untouched(session.model), engine.evaluating():
            for word in session.config.answers:
                if word == "base" and base is not None:
                    losses[word] = base
                    continue
                with session.context.answering(row_of(word, session.config.adapter)):
                    summed = self._loss(engine)
                if summed is None:
                    return None
                losses[word], tokens = self._mean(word, *summed), summed[1]
        return Measured(losses, tokens)

    def _loss(self, engine: Engine) -> tuple[float, int] | None:
        """Return the summed loss and the tokens that it is taken of; None: a stop was asked for."""
        session, context, world = self._session, self._session.context, self._session.world
        shift, head = not session.model.config.is_encoder_decoder, loss_head(session.model)
        total, tokens = 0.0, 0
        for batch in self._batches():
            targets = targets_of(batch.labels, shift)
            here = batch.to(world.device)
            context.begin_batch(here.description())
            inputs = here.inputs
            losses_P = token_losses(lambda: engine.forward(inputs), head, targets, world.device)  # noqa: B023
            rank_loss = float(losses_P.double().sum())
            loss, count, stopping = world.sum(
                [rank_loss, losses_P.numel(), float(session.stop.is_made)]
            )
            if stopping > 0:
                return None
            total, tokens = total + loss, tokens + int(count)
        return total, tokens

    def _batches(self) -> Iterator[MicroBatch]:
        """Yield this rank's batches, as many as on every other."""
        for step in range(self._loader.num_steps):
            batches = self._loader.micro_batches(step)
            (longest,) = self._session.world.max([len(batches)])
            yield from batches
            for _ in range(int(longest) - len(batches)):
                yield self._loader.filler()

    def _mean(self, word: str, total: float, tokens: int) -> float:
        if tokens == 0:
            raise LopeError(
                "The validation rows have nothing to learn: every answer lies beyond "
                f"data.max_length = {self._session.config.data.max_length}; raise it, or set "
                "data.validation to other rows."
            )
        if not math.isfinite(total):
            raise Diverged(
                f"The loss of '{word}' on the validation rows is not finite; start over with a "
                "smaller learning rate."
            )
        return total / tokens
