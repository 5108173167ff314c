"""Where a run goes on or begins, and whether it may: what decides its result is as it was."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from lope_dist.core.errors import LopeError
from lope_dist.engine.exchange import exchange
from lope_dist.train.checkpoint.folder import Checkpoint, checkpoint_at, read_state
from lope_dist.train.checkpoint.history import checkpoints
from lope_dist.train.checkpoint.initial import InitialAdapter, find_initial
from lope_dist.train.checkpoint.same_base import OF_BASE, differences
from lope_dist.train.run.extend import Extension, extend_folder
from lope_dist.train.run.folder import Resume, open_run_folder
from lope_dist.train.run.setup import Inputs, stage_loader


class Opened(NamedTuple):
    """Where a run begins or goes on."""

    checkpoint: Checkpoint | None
    """The checkpoint to go on from."""
    initial: InitialAdapter | None
    """Without one, the adapter to begin with, if it is another run's."""
    notes: dict[str, Any]
    """What the manifest is to say of that, of changed data and of a stage that was extended; on the
    main rank alone."""


def open_run(
    inputs: Inputs,
    resume: Resume,
    *,
    accepts_other_data: bool = False,
    extension: Extension | None = None,
) -> Opened:
    """Claim the run's folder; return where it goes on or begins, the same on every rank.

    The main rank looks and verifies; the others are told its choice. Collective: yes.

    Raises:
        LopeError: what `open_run_folder` and `find_initial` refuse; base weights, architecture,
            tokenizer or data that are not those of the checkpoint.
    """
    notes: dict[str, Any] = {}

    def find_and_note_initial() -> None:
        initial = find_initial(inputs.config, inputs.plan.model, inputs.fingerprints)
        notes.update({} if initial is None else {"init_from": initial.as_json()})

    def look() -> Checkpoint | None:
        if extension is not None:
            notes.update(extend_folder(inputs, extension))
        begins = not checkpoints(inputs.run_dir)
        if begins:
            find_and_note_initial()  # before the folder is claimed: what is refused can be mended
        checkpoint = open_run_folder(inputs.config, resume)
        if checkpoint is not None:
            notes.update(_refuse_other_inputs(inputs, checkpoint, accepts_other_data))
        elif not begins:
            find_and_note_initial()
        return checkpoint

    newest = inputs.world.on_main(look)
    choice = None if newest is None else (newest.index, newest.stage, newest.step)
    said = exchange(json.dumps([choice, notes.get("init_from")]), inputs.world)
    choice, began = json.loads(said[0])
    began_with = None if began is None else InitialAdapter(**began)
    checkpoint = None if choice is None else checkpoint_at(inputs.run_dir, *choice)
    return Opened(checkpoint, began_with, notes)


def _refuse_other_inputs(
    inputs: Inputs, checkpoint: Checkpoint, accepts_other_data: bool
) -> dict[str, Any]:
    state, config = read_state(checkpoint), inputs.config
    stage = config.train.stages[checkpoint.stage]
    now = {**inputs.fingerprints, "data": stage_loader(inputs, stage).fingerprint}
    then = {**state["fingerprints"], "data": state["data_fingerprint"]}
    where = dict.fromkeys(OF_BASE, f"'{config.model.name_or_path}' holds")
    where["data"] = f"'{inputs.source.name}' holds"
    accepted = {}
    if accepts_other_data and then["data"] != now["data"]:
        change = {"from": then["data"], "to": now["data"], "after": checkpoint.folder.name}
        accepted = {"accepted_data_change": change}
        del where["data"]
    if different := differences(then, now, where):
        raise LopeError(
            f"The stage '{checkpoint.stage}' was trained on {' and '.join(different)}; restore "
            "what it was, or start over in another output_dir"
            + (
                "; where rows were mended, --accept-data-change goes on with them as they are now."
                if then["data"] != now["data"] and not accepts_other_data
                else "."
            )
        )
    return accepted
