"""Score a run on lm-eval tasks, row by row, into `results.json` and `questions/`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.evaluator import evaluate

from lope_dist.config.data import DataConfig
from lope_dist.config.suite import SuiteConfig
from lope_dist.core import questions
from lope_dist.core.console import keep_log_in, library_output_to_log
from lope_dist.core.errors import LopeError
from lope_dist.core.files import refuse_unwritable
from lope_dist.engine.world import World
from lope_dist.evaluate.harness import results
from lope_dist.evaluate.harness.answers import KeptAnswers
from lope_dist.evaluate.harness.lm import LopeLM
from lope_dist.evaluate.harness.suite_file import fingerprint_of_tasks, load_suite
from lope_dist.evaluate.harness.tasks import (
    SEED,
    LoadedSuite,
    Unit,
    load_tasks,
    refuse_long_answers,
    seed_everything,
    suite_of_tasks,
    task_manager,
)
from lope_dist.evaluate.loaded.load import PURIFIED, load_run, load_run_config, run_checkpoint
from lope_dist.evaluate.loaded.parallel import agreed, is_main, on_main
from lope_dist.evaluate.loaded.rows import Row, of_checkpoint, rows_for, usual_answer
from lope_dist.train.checkpoint.folder import Checkpoint
from lope_dist.train.run.folder import LOGS

_evaluate: Any = evaluate  # its decorator hides its parameters


@dataclass(frozen=True)
class EvalRequest:
    """What to score: tasks or a suite. Settings given here win over the suite's."""

    tasks: tuple[str, ...] = ()
    experts: tuple[str, ...] = ()
    """Rows to score; none named: `rows.usual_answer`."""
    include_path: str | None = None
    num_fewshot: int | None = None
    limit: float | None = None
    batch_size: int | str = 8
    """Requests of a forward pass, or `auto`: as many as fill it with tokens."""
    apply_chat_template: bool = False
    suite: str | None = None
    """Name of a suite in `eval/suites`, or a file."""
    rescore: bool = False
    """Score again what `results.json` holds already."""
    checkpoint: str = "last"
    """Which of the run's: `last`, `best`, a number of steps or a folder's name."""


def evaluate_run(
    run_dir: Path, request: EvalRequest, world: World | None = None, base: str = "auto"
) -> dict[str, Any]:
    """Score each row and return all rows known of this run.

    Tasks of an entry of the suite are scored together and written at once; what is written of the
    same adapter, limit, few-shot count, task version, task files, chat template and noise is not
    scored again. An interrupted entry goes on from the answers that it has
    (`answers.KeptAnswers`). With a ``world`` its ranks share the work, and rank 0 writes; ``base``
    as for `load_run`.

    Collective: yes, with a ``world``.

    Raises:
        LopeError: not a run, an unknown suite, task or row, a setting that cannot be, data that
            cannot be loaded, a tokenizer without the chat template asked for, or an adapter that
            changes nothing.
    """
    config = load_run_config(run_dir)
    _check_settings(request)
    checkpoint = run_checkpoint(run_dir, request.checkpoint)
    is_purified = checkpoint.stage == PURIFIED
    words = request.experts or (usual_answer(config.adapter, is_purified=is_purified),)
    rows = rows_for(words, config.adapter, is_purified=is_purified)
    suite, files = _load_suite(request)
    checkpoint = agreed(checkpoint, world)
    rows = of_checkpoint(rows, request.checkpoint, checkpoint)
    settings = _template(request, config.data) | files
    job = _Job(run_dir, request, suite, checkpoint, settings, world)
    plan = job.plan(rows)
    if plan:
        on_main(world, lambda: refuse_unwritable(run_dir))
        keep_log_in(run_dir / LOGS, "eval")
        loaded = load_run(
            run_dir, checkpoint=checkpoint, progress=job.is_main, world=world, base=base
        )
        if request.apply_chat_template and loaded.tokenizer.chat_template is None:
            raise LopeError(
                f"--apply-chat-template: the tokenizer of '{config.model.name_or_path}' has no "
                "chat template; leave the option out, or use a model that has one."
            )
        model = LopeLM(loaded, "none", batch_size=request.batch_size)
        for unit in suite.units:
            refuse_long_answers(unit.tasks, model.max_length, model.max_gen_toks)
        for row in {row.name: row for row, _, _ in plan}.values():
            model.choose(row)  # what a row cannot answer shows now, not after hours of others
        for row, unit, names in plan:
            job.score(model, row, unit, names)
    if job.is_main:
        for row in rows:
            job.write_groups(row)
    if world is not None:
        world.barrier()
    return results.read_results(run_dir)


def _check_settings(request: EvalRequest) -> None:
    """Check what the suite's schema says of its own settings."""
    if request.limit is not None and not 0 < request.limit < math.inf:
        raise LopeError(
            f"--limit {request.limit:g}: must be above 0, documents of each task or a share below "
            "1; leave it out to score all."
        )
    if request.num_fewshot is not None and request.num_fewshot < 0:
        raise LopeError(f"--num-fewshot {request.num_fewshot}: must be a whole number from 0.")


def _load_suite(request: EvalRequest) -> tuple[LoadedSuite, dict[str, Any]]:
    """Return the suite, and what its scores say of the task files, of lm-eval's own nothing."""
    if bool(request.tasks) == (request.suite is not None):
        raise LopeError("Give --tasks or --suite, one of them, to say what to score.")
    suite = load_suite(request.suite) if request.suite is not None else None
    include_path = request.include_path or (suite and suite.include_path)
    manager = task_manager(include_path)
    files = {"task_files": fingerprint_of_tasks(include_path)} if include_path else {}
    where = include_path or "lm-eval's own tasks"
    suite = suite or suite_of_tasks(request.tasks, manager, where)
    return load_tasks(_with_settings(suite, request), manager, where), files


def _template(request: EvalRequest, data: DataConfig) -> dict[str, Any]:
    """Return whether prompts go through the chat template, and what it is given beside them."""
    if not request.apply_chat_template:
        return {"chat_template": False}
    given = {"template_arguments": data.template_arguments, "template_date": data.template_date}
    return {"chat_template": True} | {name: value for name, value in given.items() if value}


def _with_settings(suite: SuiteConfig, request: EvalRequest) -> SuiteConfig:
    """Return the suite with the request's settings in place of its own."""
    change: dict[str, Any] = {}
    if request.limit is not None:
        change["limit"] = request.limit
    if request.num_fewshot is not None:
        change["num_fewshot"] = request.num_fewshot
    return suite.model_copy(
        update={"tasks": tuple(entry.model_copy(update=change) for entry in suite.tasks)}
    )


@dataclass(frozen=True)
class _Job:
    """One call's suite, and what its scores are written with."""

    run_dir: Path
    request: EvalRequest
    suite: LoadedSuite
    checkpoint: Checkpoint
    alike: dict[str, Any]
    """The settings that all tasks share: of the chat template and of the task files."""
    world: World | None

    @property
    def is_main(self) -> bool:
        return is_main(self.world)

    def plan(self, rows: list[Row]) -> list[tuple[Row, Unit, list[str]]]:
        """Return what is to be scored, as rank 0 sees it. Collective: yes, with a world."""

        def unscored() -> list[list[list[str]]]:
            table = results.read_results(self.run_dir)
            return [[self._unscored(table, row, unit) for row in rows] for unit in self.suite.units]

        names = on_main(self.world, unscored)
        return [
            (row, unit, unscored_names)
            for unit, of_rows in zip(self.suite.units, names, strict=True)
            for row, unscored_names in zip(rows, of_rows, strict=True)
            if unscored_names
        ]

    def score(self, model: LopeLM, row: Row, unit: Unit, names: list[str]) -> None:
        """Score tasks of a unit in one row and write the figures. Collective: yes."""
        model.choose(row)
        identity = results.identity_of(row, self.checkpoint)
        depends_on = {"model": model.run.config.model.model_dump(mode="json")} | identity
        # Not that they depend on it: answers are removed with what they were given for.
        depends_on |= {"unit": unit.name, "noise": unit.noise}
        rank = 0 if self.world is None else self.world.rank
        tasks = {name: unit.tasks[name] for name in names}
        title = f"{unit.name}, {row.name}"
        with model.keeping(KeptAnswers(self.run_dir, depends_on, rank), title) as answers:
            raw = score_tasks(model, tasks, unit.limit, self.request.apply_chat_template)
        if self.is_main:
            figures = {
                name: results.plain_metrics(raw["results"][name])
                | {"num_docs": raw["results"][name]["sample_len"]}
                | {"defined_num_fewshot": task.defined_num_fewshot}
                | self._settings(unit, task)
                for name, task in tasks.items()
            }
            for name, task in tasks.items():
                of_row = results.depends_on(row, identity) | self._settings(unit, task)
                scores = results.question_scores(raw["samples"][name], figures[name])
                questions.write_scores(self.run_dir, row.name, name, of_row, scores)
            results.record(self.run_dir, row, identity, figures, model=model.facts)
            answers.remove()
        if self.world is not None:
            self.world.barrier()

    def write_groups(self, row: Row) -> None:
        """Write what tags and groups of this call are made of, and the groups' means."""
        table = results.read_results(self.run_dir)
        (tasks,) = [entry["tasks"] for entry in table["rows"] if entry["name"] == row.name]
        members = self.suite.tags()
        figures: dict[str, dict[str, Any]] = {name: {} for name in members}
        for name, group in self.suite.groups.items():
            figures[name], members[name] = {}, group.child_names
            if group.has_aggregation:
                figures[name] = results.group_metrics(group, tasks)
                shares = results.group_shares(group, tasks)
                questions.write_shares(self.run_dir, row.name, name, shares)
        results.record(
            self.run_dir, row, results.identity_of(row, self.checkpoint), figures, members
        )

    def _unscored(self, table: dict[str, Any], row: Row, unit: Unit) -> list[str]:
        if self.request.rescore:
            return list(unit.tasks)
        identity = results.identity_of(row, self.checkpoint)
        return [
            name
            for name, task in unit.tasks.items()
            if not results.is_scored(table, row, identity, name, self._settings(unit, task))
        ]

    def _settings(self, unit: Unit, task: Any) -> dict[str, Any]:
        """Return what a task's score depends on beside the row."""
        settings = {
            "num_fewshot": task.get_config("num_fewshot"),
            "limit": unit.limit,
            "version": task.VERSION,
            **self.alike,
        }
        return settings | ({"noise": unit.noise} if unit.noise else {})


def score_tasks(
    model: LopeLM, tasks: dict[str, Any], limit: float | None, apply_chat_template: bool
) -> dict[str, Any]:
    """Return what lm-eval makes of the model's answers. Collective: yes, with a world."""
    seed_everything()
    for task in tasks.values():
        task.set_fewshot_seed(SEED)
    with library_output_to_log():
        return _evaluate(
            lm=model,
            task_dict={"tasks": tasks, "groups": {}, "group_map": {}},
            limit=limit,
            apply_chat_template=apply_chat_template,
            fewshot_as_multiturn=True,
            log_samples=True,
        )
