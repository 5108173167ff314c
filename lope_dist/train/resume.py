"""Where a run goes on, and whether it may: nothing that decides its result has changed."""

from __future__ import annotations

from lope_dist.core.errors import LopeError
from lope_dist.train.checkpoint import Checkpoint, checkpoint_at, read_state
from lope_dist.train.run_folder import Resume, open_run_folder
from lope_dist.train.setup import Inputs, stage_loader


def open_run(inputs: Inputs, resume: Resume) -> Checkpoint | None:
    """Claim the run's folder; return the checkpoint to go on from, the same on every rank.

    The main rank looks and verifies; the others are told its choice. Collective: yes.

    Raises:
        LopeError: what `open_run_folder` refuses; base weights, architecture, tokenizer or
            data that are not those of the checkpoint.
    """

    def look() -> Checkpoint | None:
        checkpoint = open_run_folder(inputs.config, resume)
        if checkpoint is not None:
            _refuse_other_inputs(inputs, checkpoint)
        return checkpoint

    found = inputs.world.on_main(look)
    choice = (0, 0) if found is None else (found.index, found.step or 0)
    index, step = (int(n) for n in inputs.world.max(choice))
    if index == 0:
        return None
    stage = list(inputs.config.train.stages)[index - 1]
    return checkpoint_at(inputs.run_dir, index, stage, step or None)


def _refuse_other_inputs(inputs: Inputs, checkpoint: Checkpoint) -> None:
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
    differences = [
        f"other {what} than {where[what]} now (fingerprint {then.get(what)}, now {now[what]})"
        for what in where
        if then.get(what) != now[what]
    ]
    if differences:
        raise LopeError(
            f"The stage '{checkpoint.stage}' was trained on {' and '.join(differences)}; restore "
            "what it was, or start over in another output_dir."
        )
