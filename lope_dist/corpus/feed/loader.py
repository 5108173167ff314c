"""Which examples a rank reads in a step of a stage, as micro-batches.

Everything here is a pure function of the step, so a resume is an index and no state is
saved. Neither the number of ranks nor the size of a micro-batch changes which examples a
step has, what they look like, or the randomness at their tokens.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from transformers import PreTrainedTokenizerBase

from lope_dist.config.data import DataConfig
from lope_dist.config.schema import RunConfig
from lope_dist.config.train import StageConfig
from lope_dist.core.console import tell
from lope_dist.core.errors import LopeError
from lope_dist.core.fingerprint import json_hash
from lope_dist.core.workers import in_order
from lope_dist.corpus.built.corpus import open_built
from lope_dist.corpus.built.manifest import fingerprint_of, noisy_epochs
from lope_dist.corpus.examples.source import ExampleSource
from lope_dist.corpus.feed.batches import (
    MicroBatch,
    build_batch,
    even_rows,
    without_content,
)
from lope_dist.corpus.feed.mixture import Mixture
from lope_dist.corpus.tokens.encode import Tokenized
from lope_dist.corpus.tokens.marking import MarksLost
from lope_dist.corpus.tokens.prompts import Form
from lope_dist.corpus.tokens.views import CLEAN, FreshTokens, TokenProvider, noisy_view
from lope_dist.noise.mix import check_operations, identity_of


class StageLoader:
    """One rank's batches of one stage.

    A step has ``global_batch`` consecutive examples of the epoch's order (the last one of an
    epoch has what is left); the one at place p goes to rank ``p % world_size``, so a rank may
    get none.

    Of an adapter with poisoning experts, batches of a noisy stage tell which tokens noise changed,
    where that can be told; if the stage's own settings ask for it, they always do.

    Args:
        source: The examples.
        tokenizer: What they are encoded with.
        config: The run's: data, noise, seed and batch sizes are read here.
        stage: One of its stages.
        rank: Whose batches they are.
        world_size: The number of ranks.
        decoder_start_token_id: Of an encoder-decoder, what its decoder begins with; None of others.

    Raises:
        LopeError: packing with an encoder-decoder model, an unknown noise operation, a
            tokenizer that the template does not fit, a template in which needed marks are lost,
            or a `data.corpus` of another run.
    """

    def __init__(
        self,
        source: ExampleSource,
        tokenizer: PreTrainedTokenizerBase,
        config: RunConfig,
        stage: StageConfig,
        *,
        rank: int,
        world_size: int,
        decoder_start_token_id: int | None,
    ) -> None:
        assert 0 <= rank < world_size
        data, noise, seed = config.data, config.noise, config.seed
        is_encoder_decoder = decoder_start_token_id is not None
        check_packing(data, is_encoder_decoder)
        check_operations(noise)
        self._source = source
        self._form = Form.of(data, tokenizer, is_encoder_decoder=is_encoder_decoder)
        self._template = self._form.template_identity  # one that does not fit shows here
        self._data, self._noise, self._seed = data, noise, seed
        self._injects_text = stage.noise in ("text", "hybrid")
        self._global_batch, self._micro_batch = config.train.global_batch, config.train.micro_batch
        self._rank, self._world_size = rank, world_size
        self._mixture = Mixture(source.sizes, source.weights, seed, shuffle=data.shuffle)
        self._steps_per_epoch = -(-self._mixture.epoch_size // self._global_batch)
        self.num_steps = num_steps(self._mixture, stage, self._global_batch)
        """Optimizer steps of the stage."""
        self.workers = data.workers
        """Processes that make the batches ahead; see `batches_of`."""
        self._cut: set[int] = set()
        self._loss_on_corrupted = stage.loss_on == "corrupted"
        self._needs_marks = stage.uses_marks
        is_noisy = (self._injects_text and noise.text.is_on) or noise.data.is_on
        self.has_marks = is_noisy and (
            self._needs_marks or (config.adapter.num_poison > 0 and bool(tokenizer.is_fast))
        )
        """Whether batches have a `corrupted_mask`."""
        self._provider = self._open_provider(stage)
        self._pad_id = _pad_id(tokenizer)
        self._decoder_start_token_id = decoder_start_token_id
        # A run has settled `auto` before it asks for a batch.
        self._packs = data.packing is not False and not is_encoder_decoder

    @property
    def num_cut(self) -> int:
        """This rank's examples of the first epoch, so far, that were longer than a row.

        Counted by `note`, for the batches may be made in other processes.

        Later epochs deal the examples to other ranks; of one epoch, the ranks' counts add up.
        """
        return len(self._cut)

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides which examples a step has and what they look like."""
        parts = {
            "source": self._source.fingerprint,
            "data_noise": identity_of(self._noise.data),
            "text_noise": identity_of(self._noise.text) if self._injects_text else None,
            "template": ["chat", self._template]
            if self._data.template == "chat"
            else ["alpaca", None],
            "max_length": self._data.max_length,
            "shuffle": self._data.shuffle,
            "seed": self._seed,
            "global_batch": self._global_batch,
        }
        if self._loss_on_corrupted:
            parts["loss_on"] = "corrupted"
        if set(self._source.weights) != {1}:
            parts["weights"] = [*zip(self._source.sizes, self._source.weights, strict=True)]
        return json_hash(parts)

    def example_ids(self, step: int) -> list[int]:
        """Return the examples of a step, over all ranks, in order."""
        assert 0 <= step < self.num_steps, (step, self.num_steps)
        epoch, step_of_epoch = divmod(step, self._steps_per_epoch)
        first = step_of_epoch * self._global_batch
        end = min(first + self._global_batch, self._mixture.epoch_size)
        return self._mixture.example_ids(epoch, np.arange(first, end)).tolist()

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """Return this rank's part of a step; other ranks may have more micro-batches or fewer.

        Rows are packed, or sorted by length, within the rank's part of one step.
        """
        epoch = step // self._steps_per_epoch
        ids = self.example_ids(step)[self._rank :: self._world_size]
        tokenized = [row.tokens for row in self._provider.rows(self._view(epoch), ids)]
        if self._source.has_weights:
            tokenized = [replace(ex, weight=self._weight(ex.example_id)) for ex in tokenized]
        if not self.has_marks:  # a built corpus may have them for other stages
            tokenized = [replace(tokens, corrupted=None) for tokens in tokenized]
        lengths, size = [len(example.input_ids) for example in tokenized], self._micro_batch
        if self._packs:
            rows = even_rows(lengths, self._data.max_length)
        else:  # like beside like, so that a batch pads little
            rows = [[i] for i in sorted(range(len(lengths)), key=lambda i: -lengths[i])]
        return [
            self._build([[tokenized[i] for i in row] for row in rows[at : at + size]], epoch)
            for at in range(0, len(rows), size)
        ]

    def note(self, step: int, batches: Sequence[MicroBatch]) -> None:
        """Count the cut examples of a step's batches, once these are used."""
        if step < self._steps_per_epoch:
            self._cut.update(index for batch in batches for index in batch.cut_ids)

    def filler(self) -> MicroBatch:
        """Return a micro-batch without content, for a rank that has fewer than the others.

        Every rank must take part in every collective of a step. Its tokens are no padding, for
        the reason that `build_batch` gives.
        """
        token = int(self._pad_id == 0)
        clean = ([False] * 2, [False] * 2) if self.has_marks else None
        nothing = Tokenized(0, [token] * 2, [token] * 2, was_cut=False, corrupted=clean)
        return without_content(self._build([[nothing]], epoch=0))

    def _weight(self, index: int) -> float:
        """Return what the loss of an example is multiplied by: its weight over the mean one.

        The mean is over the target tokens of all rows, held-out ones too, before any noise. It is
        the same in every step, so a weight means the same in a batch of one example as in a batch
        of many, and only ratios of weights matter.
        """
        return self._source[index].weight / self._source.account.mean_weight

    def _build(self, rows: list[list[Tokenized]], epoch: int) -> MicroBatch:
        return build_batch(
            rows,
            is_packed=self._packs,
            pad_id=self._pad_id,
            decoder_start_token_id=self._decoder_start_token_id,
            seed=self._seed,
            epoch=epoch,
            loss_on_corrupted=self._loss_on_corrupted,
        )

    def _view(self, epoch: int) -> str:
        return noisy_view(epoch) if self._injects_text and self._noise.text.is_on else CLEAN

    def _open_provider(self, stage: StageConfig) -> TokenProvider:
        if self._data.corpus is None:
            tokens = FreshTokens(self._source, self._form, self._noise, self._seed, self.has_marks)
            try:
                if self.has_marks:
                    tokens.check_marks(self._view(0))
            except MarksLost:
                if self._needs_marks:
                    raise
                self.has_marks = False
                if self._rank == 0:
                    tell(
                        "The chat template hides which tokens noise hits: the router's weights are "
                        "not told apart by them."
                    )
            return replace(tokens, has_marks=self.has_marks)
        needed = fingerprint_of(
            self._form,
            self._noise,
            seed=self._seed,
            num_noisy_epochs=noisy_epochs([stage], self._noise),
            source=self._source.fingerprint,
            num_examples=len(self._source),
            shard_examples=1,
            has_marks=self._needs_marks,
        )
        corpus = open_built(self._data.corpus, needed)
        self.has_marks = self.has_marks and corpus.manifest.fingerprint.has_marks
        return corpus


def batches_of(
    loader: StageLoader, *, first_step: int = 0, workers: int = 0, timeout_s: float = 600.0
) -> Iterator[tuple[int, list[MicroBatch]]]:
    """Yield each step from ``first_step`` on and this rank's micro-batches of it, in order.

    They are the same for any number of workers, which make the batches of coming steps while one
    is computed; no state is kept but the step.

    Raises:
        LopeError: what making a batch raises, or a worker that died or gave nothing for
            ``timeout_s``.
    """

    # As bytes: a tensor would travel as a file descriptor in shared memory, of which a step of
    # many micro-batches has more than a process may hold, and a container little.
    def packed(step: int) -> bytes:
        return pickle.dumps(loader.micro_batches(step), protocol=pickle.HIGHEST_PROTOCOL)

    steps = in_order(
        packed if workers else loader.micro_batches,
        range(first_step, loader.num_steps),
        workers,
        what=f"data.workers = {workers}",
        remedy="resume the run, with fewer workers or data.workers=0",
        limit_s=timeout_s,
    )
    for step, step_batches in steps:
        batches = pickle.loads(step_batches) if isinstance(step_batches, bytes) else step_batches
        yield step, batches
        loader.note(step, batches)  # used, where the next ones are asked for


def num_steps(mixture: Mixture, stage: StageConfig, global_batch: int) -> int:
    """Return the optimizer steps of a stage."""
    all_steps = stage.epochs * -(-mixture.epoch_size // global_batch)
    return min(all_steps, stage.max_steps or all_steps)


def check_packing(data: DataConfig, is_encoder_decoder: bool) -> None:
    """Refuse packed rows where the model cannot keep the examples in them apart.

    Raises:
        LopeError: packing with an encoder-decoder model.
    """
    if is_encoder_decoder and data.packing is True:
        raise LopeError(
            "data.packing = true with an encoder-decoder model: its encoder cannot keep "
            "packed examples apart; set data.packing=false."
        )


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return a token to pad with; padding is never attended to by what is not padding."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token_id, int):
            return token_id
    return 0
