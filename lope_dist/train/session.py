"""A training run from configuration to checkpoints: load once, then stage after stage."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lope_dist.config.schema import RunConfig
from lope_dist.core.console import keep_log_in, tell
from lope_dist.core.errors import Interrupted, Preempted
from lope_dist.core.files import telling_disk_errors
from lope_dist.engine.world import calm_allocator, start_world
from lope_dist.model.build import load_tokenizer
from lope_dist.model.fingerprint import fingerprints
from lope_dist.model.source import model_folder
from lope_dist.model.tokenizer_fit import check_tokenizer
from lope_dist.train.checkpoint.folder import Checkpoint, install_checkpoint, read_state
from lope_dist.train.checkpoint.progress import RunProgress
from lope_dist.train.premises.data import dated, figures_of, open_parts, tell_rows
from lope_dist.train.premises.preflight import check_length, preflight
from lope_dist.train.premises.table import check_premises, head_sentence
from lope_dist.train.run.extend import Extension, parse_extension
from lope_dist.train.run.files import write_run_files
from lope_dist.train.run.folder import LOGS, Resume, has_begun
from lope_dist.train.run.lock import run_lock
from lope_dist.train.run.manifest import note, recorded
from lope_dist.train.run.resume import Opened, open_run
from lope_dist.train.run.same_inputs import refuse_other_inputs
from lope_dist.train.run.saving import check_last_is_there
from lope_dist.train.run.settle import prove, take_recorded
from lope_dist.train.run.setup import Inputs, Session, load_session, stage_loader
from lope_dist.train.run.stop import StopRequest
from lope_dist.train.run.tracking import tracking
from lope_dist.train.stage.drift import values_at_stage_start
from lope_dist.train.stage.metrics import trim_metrics
from lope_dist.train.stage.stage import StageRun
from lope_dist.train.trackers.base import check_installed

_LESS_MEMORY = (
    "set a smaller train.micro_batch or data.max_length, or model.gradient_checkpointing=true; "
    "`lope plan CONFIG` tells what fits"
)


def train(
    config: RunConfig,
    *,
    resume: Resume = False,
    accepts_other_data: bool = False,
    extend: str | None = None,
) -> Path:
    """Train all stages and return the run's folder.

    ``extend``: what `parse_extension` reads; the run in the folder goes on.
    ``accepts_other_data``: a resume may go on with rows that were changed; the manifest says so.

    Collective: yes; every rank of the launcher calls this.

    Raises:
        LopeError: anything that the user can mend; nothing is half-written.
        Preempted: SIGTERM or SIGUSR1 came, and the run was saved where it is.
        Interrupted: Ctrl-C was pressed, and the same, or nothing was to be saved yet.
    """
    try:
        extension = None
        if extend is not None:
            config, extension = parse_extension(config, extend)
        return _train(config, resume or extension is not None, accepts_other_data, extension)
    except KeyboardInterrupt:
        raise Interrupted(
            f"Stopped by Ctrl-C before the first step of this start; {config.output_dir} was not "
            "changed. Start again in the same way, with --resume if there are checkpoints."
        ) from None


def _train(
    config: RunConfig, resume: Resume, accepts_other_data: bool, extension: Extension | None
) -> Path:
    check_installed(config.train.trackers)
    if config.engine.partitions_parameters:
        calm_allocator(from_bytes=1 << 20)  # smaller ones save memory and cost much time
    plan = preflight(config)
    check_length(config, plan.model, has_begun=has_begun(Path(config.output_dir)))
    tokenizer = load_tokenizer(config.model)
    check_tokenizer(tokenizer, plan.model, config.model.name_or_path)
    config = dated(config, tokenizer)
    source, validation = open_parts(config, tokenizer, plan.model.config)
    with StopRequest() as stop:
        model_folder(config.model)  # to load it may take longer than ranks wait for each other
        world = start_world(config.engine)
        with world.failures_named(_LESS_MEMORY), ExitStack() as held:
            hashes = fingerprints(config.model, tokenizer)
            inputs = Inputs(config, world, stop, plan, source, validation, tokenizer, hashes)
            refuse_other_inputs(inputs)
            if world.is_main:
                tell_rows(config, source, validation, tokenizer, plan.model.config)
            inputs.hold = world.on_main(lambda: held.enter_context(run_lock(inputs.run_dir)))
            for stage in config.train.stages.values():
                stage_loader(inputs, stage)  # data that do not fit it show before any is trained
            opened = open_run(
                inputs, resume, accepts_other_data=accepts_other_data, extension=extension
            )
            keep_log_in(inputs.run_dir / LOGS, "rank")
            take_recorded(inputs, opened.checkpoint)
            with recorded(inputs.config, world, hashes | {"data": source.fingerprint}) as record:
                record |= opened.notes
                session = load_session(inputs)
                packing = prove(session, is_resumed=opened.checkpoint is not None)
                progress, start = _restore(session, opened)
                world.on_main(lambda: _tell_premises(session, packing, progress, record))
                stopped_at = _train_stages(session, progress, opened.checkpoint, start)
                (by_ctrl_c,) = world.max([float(stop.is_interrupt)])
                if stopped_at is not None:
                    record |= {"status": "stopped", "reason": stopped_at}
            world.close()
    if stopped_at is not None:
        kind = Interrupted if by_ctrl_c else Preempted
        raise kind(
            f"{stopped_at}; the checkpoint is whole, go on with --resume auto (output_dir "
            f"{inputs.run_dir})."
        )
    return inputs.run_dir


def _tell_premises(
    session: Session, packing: str, progress: RunProgress, start: dict[str, Any]
) -> None:
    """Print what the run stands on and write it down. One rank calls this."""
    plan, world = replace(session.plan, config=session.config), session.world
    premises = check_premises(plan, session.config, world.size, world.device)
    premises.packing, premises.head = packing, head_sentence(session.model, session.config)
    premises.dropout += "; two training forwards of one input are equal"
    if progress.init_from is not None:
        premises.init_from = progress.init_from.sentence()
    premises.data = figures_of(session.config, session.source, session.validation)
    for line in premises.lines():
        tell(line)
    note(session.run_dir, start, premises=premises.as_json())


def _train_stages(
    session: Session,
    progress: RunProgress,
    checkpoint: Checkpoint | None,
    start: dict[str, Tensor] | None,
) -> str | None:
    """Train what is left; return where a signal stopped it, or None. Collective: yes."""
    stages = list(session.config.train.stages)
    with tracking(session, progress):
        while progress.index <= len(stages):
            middle = checkpoint if progress.stage.next_step else None
            stage_run, start = StageRun(session, progress, middle, start), None
            is_stopped = stage_run.train()
            if is_stopped and progress.index <= len(stages):
                step, name = progress.stage.next_step, stages[progress.index - 1]
                return f"Stopped by a signal after step {step} of stage '{name}'"
        session.world.on_main(lambda: check_last_is_there(session))
        session.trackers.finish(is_finished=True)
    return None


def _restore(session: Session, opened: Opened) -> tuple[RunProgress, dict[str, Tensor] | None]:
    """Load the adapter to go on or to begin with; make the run's files fit it.

    Returns:
        Where it was, and of one in the middle of a stage the adapter as the stage began.

    Collective: yes.

    Raises:
        LopeError: an adapter that does not fit, or a file that was changed meanwhile.
    """
    checkpoint, state, start = opened.checkpoint, None, None
    progress = RunProgress(init_from=opened.initial)
    if checkpoint is not None:
        state = read_state(checkpoint)
        progress = RunProgress.from_state(state, is_end=checkpoint.step is None)
        if progress.stage.next_step:
            start = values_at_stage_start(session, progress)
        install_checkpoint(session.model, checkpoint)
    elif opened.initial is not None:
        opened.initial.install(session.model)

    def make_files_fit() -> None:
        names = list(session.config.train.stages)
        done, rest = names[: progress.index - 1], names[progress.index - 1 :]
        current = rest[0] if rest else None
        with telling_disk_errors(session.run_dir):
            trim_metrics(session.run_dir, done, current, progress.stage.next_step)
        if state is not None and checkpoint is not None:
            write_run_files(session, checkpoint, state)

    session.world.on_main(make_files_fit)
    return progress, start
