"""Where a run goes on, and whether it may: nothing that decides its result has changed."""

from __future__ import annotations

from typing import Any

from lope_dist.core.errors import LopeError
from lope_dist.train.checkpoint import Checkpoint, checkpoint_at, read_state
from lope_dist.train.extend import Extension, extend_folder
from lope_dist.train.run_folder import Resume, open_run_folder
from lope_dist.train.setup import Inputs, stage_loader


def open_run(
    inputs: Inputs,
    resume: Resume,
    *,
    accepts_other_data: bool = False,
    extension: Extension | None = None,
) -> tuple[Checkpoint | None, dict[str, Any]]:
    """Claim the run's folder; return the checkpoint to go on from, the same on every rank.

    The main rank looks and verifies; the others are told its choice. Collective: yes.

    Returns:
        The checkpoint, and on the main rank what the manifest is to say of changed data and of
        a stage that was extended.

    Raises:
        LopeError: what `open_run_folder` refuses; base weights, architecture, tokenizer or
            data that are not those of the checkpoint.
    """
    accepted: dict[str, Any] = {}

    def look() -> Checkpoint | None:
        if extension is not None:
            accepted.update(extend_folder(inputs.config, extension))
        checkpoint = open_run_folder(inputs.config, resume)
        if checkpoint is not None:
            accepted.update(_refuse_other_inputs(inputs, checkpoint, accepts_other_data))
        return checkpoint

    found = inputs.world.on_main(look)
    choice = (0, 0) if found is None else (found.index, found.step or 0)
    index, step = (int(n) for n in inputs.world.max(choice))
    if index == 0:
        return None, accepted
    stage = list(inputs.config.train.stages)[index - 1]
    return checkpoint_at(inputs.run_dir, index, stage, step or None), accepted


def _refuse_other_inputs(
    inputs: Inputs, checkpoint: Checkpoint, accepts_other_data: bool
) -> dict[str, Any]:
    state, config = read_state(checkpoint), inputs.config
    stage = config.train.stages[checkpoint.stage]
    now = {**inputs.fingerprints, "data": stage_loader(inputs, stage).fingerprint}
    then = {**state["fingerprints"], "data": state["data_fingerprint"]}
    where = {
        "base weights": f"'{config.model.name_or_path}' holds",
        "architecture": f"'{config.model.name_or_path}' holds",
        "tokenizer": f"'{config.model.name_or_path}' holds",
        "data": f"'{inputs.source.name}' holds",
    }
    accepted = {}
    if accepts_other_data and then["data"] != now["data"]:
        change = {"from": then["data"], "to": now["data"], "after": checkpoint.folder.name}
        accepted = {"accepted_data_change": change}
        del where["data"]
    differences = [
        f"other {what} than {where[what]} now (fingerprint {then.get(what)}, now {now[what]})"
        for what in where
        if then.get(what) != now[what]
    ]
    if differences:
        raise LopeError(
            f"The stage '{checkpoint.stage}' was trained on {' and '.join(differences)}; restore "
            "what it was, or start over in another output_dir"
            + (
                "; where rows were mended, --accept-data-change goes on with them as they are now."
                if then["data"] != now["data"] and not accepts_other_data
                else "."
            )
        )
    return accepted
