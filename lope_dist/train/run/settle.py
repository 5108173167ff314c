"""`auto` in a run's configuration -> what it is, decided once, recorded and kept by a resume."""

from __future__ import annotations

import json
import sys

import yaml

from lope_dist.core.errors import LopeError
from lope_dist.core.files import telling_disk_errors, write_atomic
from lope_dist.engine.exchange import exchange
from lope_dist.train.checkpoint.descriptions import read_recorded
from lope_dist.train.checkpoint.folder import CONFIG, Checkpoint
from lope_dist.train.premises.preflight import with_settled
from lope_dist.train.run.proofs import (
    prove_packing,
    prove_recomputation,
    prove_repeatable,
    prove_virtual_tokens,
)
from lope_dist.train.run.setup import Inputs, Session

_SETTLED = ("model", "attention"), ("data", "packing")


def take_recorded(inputs: Inputs, checkpoint: Checkpoint | None) -> None:
    """Put what the run has settled before, or else this host's choice, in the place of `auto`.

    The main rank looks: into the checkpoint to go on from, or else into the run's folder.

    Collective: yes.

    Raises:
        LopeError: with what the run asks for now, its packed examples would attend to each other.
    """
    asked, here = inputs.config, inputs.plan.config
    recorded = {"attention": here.model.attention, "packing": here.data.packing}
    if inputs.world.is_main:
        folder = inputs.run_dir if checkpoint is None else checkpoint.folder
        tree = read_recorded((folder / CONFIG).read_bytes()) or {}
        for section, key in _SETTLED:
            if (value := tree.get(section, {}).get(key)) not in (None, "auto"):
                recorded[key] = value
    (recorded, *_) = map(json.loads, exchange(json.dumps(recorded), inputs.world))
    inputs.config = with_settled(asked, **recorded)
    if reason := inputs.config.why_flash_attention_mixes_examples():
        raise LopeError(f"The run began with packing and FlashAttention: {reason}.")


def prove(session: Session, *, is_resumed: bool) -> str:
    """Prove the loaded model's premises and settle packing; return whether it is on, and why.

    A resumed run keeps what was settled as it began, and proves it anew: its host, its libraries
    and its micro-batches may be others.

    Collective: yes.

    Raises:
        LopeError: packing is asked for, or was on as the run began, and the model leaks; or the
            base draws random numbers, cannot have the adapter's virtual tokens, or has layers
            that cannot be recomputed.
    """
    prove_repeatable(session)
    prove_virtual_tokens(session)
    prove_recomputation(session)
    packing, why = session.config.data.packing, "as the run began"
    if packing:
        reason = prove_packing(session)
        if reason is not None and packing is True:
            remedy = (
                "go on with the libraries and settings that it began with"
                if is_resumed
                else "set data.packing=auto or data.packing=false"
            )
            raise LopeError(f"data.packing = true, and {reason}; {remedy}.")
        why = reason or "measured: two packed examples do not attend to each other"
        if is_resumed and packing is True:
            why = f"as the run began; {why}"
        packing = reason is None
        if reason is not None and session.world.is_main:
            print(f"data.packing is off: {reason}.", file=sys.stderr)
    elif not is_resumed:
        why = "set in the recipe, or the only choice with this model and adapter"
    attention = session.config.model.attention
    session.config = with_settled(session.config, attention=attention, packing=packing)
    session.world.on_main(lambda: _record(session))
    return f"{'on' if packing else 'off'}: {why}"


def _record(session: Session) -> None:
    """Write what was settled into the run's folder, in the place of `auto`."""
    path = session.run_dir / CONFIG
    tree, settled = read_recorded(path.read_bytes()), session.config.model_dump(mode="json")
    assert tree is not None, "it was written or read as the run's folder was opened"
    is_new = False
    for section, key in _SETTLED:
        if tree[section].get(key) == "auto":
            tree[section][key], is_new = settled[section][key], True
    if is_new:
        with telling_disk_errors(path):
            write_atomic(path, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
