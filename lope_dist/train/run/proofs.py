"""What is proved on a run's own model after the load and before its first step.

Two examples share a row, and the second one's hidden states must be what they are in a row of
its own, whatever stands in the first: else the model does not keep packed examples apart. And a
training forward must be repeatable: else some dropout of the base is on. Where layers are
recomputed, none may read what another one computed: it would have no gradient.

The base alone is asked. An adapter's layers compute each token by itself, so they cannot leak.
Virtual tokens are asked once with the base, which takes them in its own code.

Shapes: T tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from lope_dist.adapters.base import adapter_modules
from lope_dist.adapters.prompts import refusal
from lope_dist.config.baselines import PromptConfig
from lope_dist.core.errors import LopeError, first_line
from lope_dist.corpus.feed.batches import MicroBatch, build_batch
from lope_dist.corpus.tokens.encode import Tokenized
from lope_dist.engine.gathering import gathering
from lope_dist.model.families import decoder_start_of
from lope_dist.model.probes import (
    differences_between,
    differences_within,
    last_hidden,
    longest_window,
    mode,
    vocabulary,
)
from lope_dist.model.side_inputs import side_inputs
from lope_dist.train.premises.mixed_lengths import why_lengths_mix
from lope_dist.train.premises.saved_tensors import layers_of
from lope_dist.train.run.setup import Session

_SHORTEST, _BEYOND_WINDOW = 48, 16
"""Tokens of an example that is tried: more than any convolution's kernel and any window."""
_TRIES = 3
_FLOOR = 8.0
"""What is above so many times the rounding that was measured is no rounding."""
_LEAST = {torch.float32: 1e-6, torch.bfloat16: 2e-3}
_LEAST_APART = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Relative differences that are rounding in any case; the second, of other attention kernels."""


def prove_packing(session: Session) -> str | None:
    """Return why the model cannot have packed rows, None if it keeps the examples in them apart.

    Collective: yes.
    """
    is_open = session.config.data.packing == "auto"  # else `check_length` has refused or told
    if is_open and (reason := why_lengths_mix(session.config, session.model.config)):
        return reason
    batches = _Batches(session)
    tries = range(_TRIES)
    with _asking(session, training=False):
        packed = [batches.second(batches.packed(i), row=0) for i in tries]
        apart = [batches.second(batches.apart(i), row=1) for i in tries]
    rounding = _FLOOR * float(differences_within(apart).max())
    leak = float(differences_within(packed).max())
    shift = float(differences_between(packed, apart).max())
    dtype = getattr(torch, session.config.model.dtype)
    leaks = leak > max(rounding, _LEAST[dtype])
    moves = shift > max(rounding, _LEAST_APART[dtype])
    (leaks, moves) = session.world.max([float(leaks), float(moves)])
    if leaks:
        return (
            f"in this {session.model.config.model_type} model a packed example sees the one before "
            f"it (its hidden states change by up to {leak:.1e} with the other's words)"
        )
    if moves:
        return (
            f"this {session.model.config.model_type} model answers otherwise to a packed example "
            f"than to the same one in a row of its own (by up to {shift:.1e})"
        )
    return None


def prove_repeatable(session: Session) -> None:
    """Prove that the base draws nothing while it trains, and that adapters read whole rows.

    Collective: yes.

    Raises:
        LopeError: some dropout of the base is on, or a layer with an adapter is not called, or
            not with each token of its stream once; or the model does not train on text alone.
    """
    inputs = _Batches(session).alone(1).to(session.world.device).inputs
    with _asking(session, training=True), _noting_calls(session) as seen:
        states = [last_hidden(session.model, inputs)[0] for _ in range(_TRIES)]
    difference = float(differences_within(states).max())
    dtype = getattr(torch, session.config.model.dtype)
    (is_random,) = session.world.max([float(difference > 10 * _LEAST[dtype])])
    model_type = session.model.config.model_type
    if is_random:
        raise LopeError(
            f"This {model_type} model gave two results for one input in training mode (they differ "
            f"by up to {difference:.1e}): it has a dropout or a jitter of its own that lope_dist "
            "does not switch off; set it to 0 in the model's config.json."
        )
    lengths = {"decoder": inputs["input_ids"].shape[1]}
    if session.plan.family.is_encoder_decoder:
        lengths = {"encoder": lengths["decoder"], "decoder": inputs["decoder_input_ids"].shape[1]}
    for name in _adapted(session):
        stream = session.plan.family.stream_of(name)
        if seen.get(name) != lengths[stream]:
            tokens = f"{seen[name]} of {lengths[stream]} tokens" if name in seen else "nothing"
            raise LopeError(
                f"adapter.targets: the layer '{name}' of this {model_type} model gets {tokens} of "
                f"the {stream}'s input, so an adapter there cannot learn from every token; leave "
                "it out."
            )


def prove_recomputation(session: Session) -> None:
    """Prove that layers which are recomputed have the gradients of layers which are not.

    Collective: yes.

    Raises:
        LopeError: a layer reads what another one computed, beside the hidden states.
    """
    model = session.model
    if not session.config.model.gradient_checkpointing:
        return
    inputs = _Batches(session).alone(1).to(session.world.device).inputs
    with _asking(session, training=False):
        read = side_inputs(layers_of(model), lambda: last_hidden(model, inputs))
    if read:
        name, what = next(iter(read.items()))
        raise LopeError(
            f"model.gradient_checkpointing = true, and the layer '{name}' of this "
            f"{model.config.model_type} model reads {what}: the gradients would be wrong. Set "
            "model.gradient_checkpointing=false, and where memory is short a smaller "
            "train.micro_batch."
        )


def prove_virtual_tokens(session: Session) -> None:
    """Prove that the model runs with the adapter's virtual tokens, and that they change its answer.

    Behind `prove_repeatable`, so what fails here is the tokens' doing. Collective: yes.

    Raises:
        LopeError: it does not run, or nothing changes.
    """
    model, adapter = session.model, session.config.adapter
    if not isinstance(adapter, PromptConfig):
        return
    inputs = _Batches(session).alone(1).to(session.world.device).inputs
    with _asking(session, training=True):
        without = last_hidden(model, inputs)
        try:
            with session.context.answering("all"):
                states = last_hidden(model, inputs)
        except (torch.OutOfMemoryError, torch.distributed.DistError):
            raise
        except Exception as error:  # of any kind: transformers' own code, called in an unusual way
            raise refusal(model, adapter, f"it cannot run ({first_line(error)})") from error
    if states.shape != without.shape or torch.equal(states, without):
        raise refusal(model, adapter, "virtual tokens change none of its answers")


class _Batches:
    """The examples that are tried, in the batches that the loop would make of them."""

    def __init__(self, session: Session) -> None:
        config, self._session = session.config, session
        length = max(_SHORTEST, longest_window(session.model.config) + _BEYOND_WINDOW)
        self.length = max(2, min(length, config.data.max_length // 2))
        rng = np.random.default_rng(0)
        words = vocabulary(session.model).numpy()
        self._firsts = [rng.choice(words, self.length).tolist() for _ in range(_TRIES)]
        self._second = rng.choice(words, self.length).tolist()
        self._third = rng.choice(words, max(1, self.length // 2)).tolist()

    def packed(self, number: int) -> MicroBatch:
        """Return a row of both; where a micro-batch has several rows, a shorter one too."""
        rows = [[self._firsts[number], self._second], [self._third, self._third]]
        return self._rows(rows[: self._session.config.train.micro_batch], is_packed=True)

    def apart(self, number: int) -> MicroBatch:
        """Return a row of each."""
        return self._rows([[self._firsts[number]], [self._second]], is_packed=False)

    def alone(self, number: int) -> MicroBatch:
        """Return one example, of an encoder-decoder a pair of two lengths."""
        if not self._session.plan.family.is_encoder_decoder:
            return self._rows([[self._firsts[number]]], is_packed=False)
        pair = Tokenized(0, self._firsts[number], self._third, was_cut=False, corrupted=None)
        start = decoder_start_of(self._session.model.config)
        assert start is not None
        return build_batch(
            [[pair]], is_packed=False, pad_id=0, seed=0, epoch=0, decoder_start_token_id=start
        )

    def second(self, batch: MicroBatch, row: int) -> Tensor:
        """Return the hidden states of the second example, (T, D)."""
        inputs = batch.to(self._session.world.device).inputs
        return last_hidden(self._session.model, inputs)[row, -self.length :]

    def _rows(self, rows: list[list[list[int]]], *, is_packed: bool) -> MicroBatch:
        made = [
            [Tokenized(0, ids, ids, was_cut=False, corrupted=None) for ids in row] for row in rows
        ]
        return build_batch(made, is_packed=is_packed, pad_id=0, seed=0, epoch=0)


@contextmanager
def _asking(session: Session, *, training: bool) -> Iterator[None]:
    """Context in which the base alone answers, and nothing of the run is changed.

    Raises:
        LopeError: the model's own code refuses what it is asked. Errors of a device or of a
            collective are `RuntimeError`s, and pass.
    """
    with (
        session.context.answering("none"),
        gathering(session.model),
        mode(session.model, training=training),
    ):
        try:
            yield
        except (LopeError, RuntimeError):
            raise
        except Exception as error:  # of any kind: transformers' own code, or a stranger's
            raise LopeError(
                f"This {session.model.config.model_type} model cannot be asked with text alone "
                f"({first_line(error)}); take a model that trains on text alone."
            ) from error


def _adapted(session: Session) -> dict[str, nn.Module]:
    """Return the layers that stand in the place of the model's own."""
    return {
        name: module
        for name, module in adapter_modules(session.model).items()
        if module.wraps_a_layer and isinstance(module, nn.Module)
    }


@contextmanager
def _noting_calls(session: Session) -> Iterator[dict[str, int]]:
    """Context that notes how many tokens each layer with an adapter is called with."""
    seen: dict[str, int] = {}
    handles = []
    for name, module in _adapted(session).items():

        def note(module: object, args: tuple[Tensor, ...], name: str = name) -> None:
            seen[name] = args[0].shape[:-1].numel()

        handles.append(module.register_forward_pre_hook(note))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
