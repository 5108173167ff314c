"""`adapter.init_from`: a run whose adapter begins as another run's ends.

What must agree is read from the other run's checkpoint, never from its data or its model. A
checkpoint of the new run says which adapter it began with, by its hash, so that a resume can tell
whether that one is still there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from lope_dist.adapters.lope import adapter_tensors
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.train.checkpoint.choice import choose_checkpoint
from lope_dist.train.checkpoint.descriptions import read_description, read_recorded
from lope_dist.train.checkpoint.folder import (
    CONFIG,
    Checkpoint,
    checkpoint_defect,
    checkpoint_in,
    install_checkpoint,
    read_state,
)
from lope_dist.train.checkpoint.method import describe_difference

_KEY = "adapter.init_from"
_COMPUTES_NOTHING = {
    # Regularisation, inference, a schedule; which layers are adapted the tensors' names say.
    *("dropout", "compensation", "init_from", "init_checkpoint", "targets"),
    *("target_rank", "initial_share", "final_share", "allocate_every_steps", "orthogonality"),
}
"""Of an adapter's settings those that have no part in what its weights compute."""


@dataclass(frozen=True)
class InitialAdapter:
    """The checkpoint of another run that this one begins with."""

    checkpoint: str
    """Its folder."""
    sha256: str
    """Hash of the adapter's file."""

    def sentence(self) -> str:
        """Return which it is, in words."""
        return f"{self.checkpoint} (sha256 {self.sha256[:12]})"

    def as_json(self) -> dict[str, str]:
        """Return what a manifest and a checkpoint's `state.json` say of it."""
        return asdict(self)

    @property
    def source(self) -> Checkpoint:
        """Where it is."""
        source = checkpoint_in(Path(self.checkpoint))
        assert source is not None, "it was chosen among checkpoints"
        return source

    def defect(self) -> str | None:
        """Return why the checkpoint is not what it was, None if it is."""
        if reason := checkpoint_defect(self.source):
            return reason
        is_same = self.source.adapter_sha256 == self.sha256
        return None if is_same else "it holds another adapter now"

    def install(self, model: PreTrainedModel) -> None:
        """Copy its weights into a model whose adapters are whole.

        Raises:
            LopeError: it was changed or removed meanwhile; names the key.
        """
        try:
            install_checkpoint(model, self.source)
        except LopeError as error:
            raise LopeError(f"{_KEY}: {error}") from None


def find_initial(
    config: RunConfig, model: PreTrainedModel, base_fingerprints: Mapping[str, str] | None = None
) -> InitialAdapter | None:
    """Return what `adapter.init_from` names, None where it names nothing.

    Args:
        config: The new run's.
        model: With its adapters; on the meta device is enough.
        base_fingerprints: Fingerprints of its base model, where its weights are at hand.

    Raises:
        LopeError: no such run or checkpoint, a damaged one, or one of another base model or
            another adapter. Names the key.
    """
    adapter = config.adapter
    if adapter.init_from is None:
        return None
    try:
        chosen = choose_checkpoint(Path(adapter.init_from), adapter.init_checkpoint)
        if difference := _base_difference(chosen, base_fingerprints or {}) or _difference(
            chosen, config, model
        ):
            raise LopeError(f"{chosen.folder} {difference}, or leave the key out.")
    except LopeError as error:
        raise LopeError(f"{_KEY}: {error}") from None
    return InitialAdapter(str(chosen.folder), chosen.adapter_sha256)


def _base_difference(chosen: Checkpoint, base_fingerprints: Mapping[str, str]) -> str | None:
    then = read_state(chosen)["fingerprints"]
    other = [
        what
        for what in ("base weights", "architecture")
        if then.get(what) != base_fingerprints.get(what)
    ]
    if not base_fingerprints or not other:
        return None
    return f"was trained on another base model ({' and '.join(other)} differ); name a run of this"


def _difference(chosen: Checkpoint, config: RunConfig, model: PreTrainedModel) -> str | None:
    """Return how the other run's adapter differs from this one's, and how to mend it."""
    recorded = read_recorded((chosen.folder / CONFIG).read_bytes())
    assert recorded is not None, "a whole checkpoint has one"
    then, now = (_compared(tree) for tree in (recorded, config.model_dump(mode="json")))
    if then["adapter"]["kind"] != now["adapter"]["kind"]:
        then, now = ({"adapter": {"kind": tree["adapter"]["kind"]}} for tree in (then, now))
    if differences := describe_difference(then, now):
        return (
            f"has another adapter ({'; '.join(differences[:6])}); set these keys as they are there"
        )
    tensors = read_description(chosen.folder).get("tensors", {})
    saved = {name: tensor["shape"] for name, tensor in tensors.items()}
    held = {name: list(tensor.shape) for name, tensor in adapter_tensors(model).items()}
    odd = sorted(name for name in {*saved, *held} if saved.get(name) != held.get(name))
    if not odd:
        return None
    here, there = (shapes.get(odd[0], "nothing") for shapes in (held, saved))
    return (
        f"has an adapter of another shape ({len(odd)} tensors, first {odd[0]}: {there} -> {here}); "
        "set adapter.targets and the model as they are there"
    )


def _compared(tree: dict[str, Any]) -> dict[str, Any]:
    adapter = {"kind": "lope"} | tree["adapter"]
    return {"adapter": {k: v for k, v in adapter.items() if k not in _COMPUTES_NOTHING}}
