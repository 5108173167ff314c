"""Answers of an evaluation that is under way, on disk, so that a killed one goes on.

A folder for each model, row and entry of a suite, a JSONL file for each rank in it. lm-eval calls
`add_partial` for every single answer; a line is complete as soon as it is written, and what a kill
leaves half written is not read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lope_dist.core.files import open_nofollow
from lope_dist.core.fingerprint import json_hash
from lope_dist.engine.exchange import exchange, refuse_unlike
from lope_dist.engine.world import World

ANSWERS = "answers"
"""Folder of a run."""


class KeptAnswers:
    """The answers of one model in one row, to what is scored and removed together.

    Args:
        run_dir: The run's folder.
        identity: All that the answers depend on beside the request, and what they are removed
            with; JSON-able.
        rank: Of this process; each writes a file of its own.
    """

    def __init__(self, run_dir: Path, identity: Any, rank: int) -> None:
        self.folder = run_dir / ANSWERS / json_hash(identity)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._known = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            self._known |= _read(path)
        self._file = open_nofollow(self.folder / f"{rank}.jsonl", "a")
        # Line by line: each is with the operating system before the next answer is computed.
        self._file.reconfigure(line_buffering=True)
        self._file.write("\n")  # ends what a kill left half written

    def add_partial(self, kind: str, arguments: Any, answer: Any) -> None:
        """Keep one answer (lm-eval's hook)."""
        if not _is_sampled(arguments):
            record = {"request": json_hash([kind, *arguments]), "answer": answer}
            self._file.write(json.dumps(record) + "\n")

    def find(self, kind: str, requests: Sequence[Sequence[Any]]) -> dict[int, Any]:
        """Return the answers that are known, by the request's position.

        Args:
            kind: Of the requests.
            requests: What each one asks, lm-eval's `args`.
        """
        known_answers = {}
        for index, arguments in enumerate(requests):
            key = json_hash([kind, *arguments])
            if key in self._known and not _is_sampled(arguments):
                known_answers[index] = as_answer(self._known[key])
        return known_answers

    def close(self) -> None:
        """Write no more."""
        self._file.close()

    def remove(self) -> None:
        """Remove them, once their scores are written."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # it holds others still, or another process was faster
            self.folder.parent.rmdir()


def as_answer(answer: Any) -> Any:
    """Return an answer in lm-eval's form from what JSON holds."""
    return tuple(answer) if isinstance(answer, list) else answer


def agree(answers: dict[int, Any], world: World) -> dict[int, Any]:
    """Return the answers that every rank knows. Collective: yes."""
    of_ranks = [set(json.loads(text)) for text in exchange(json.dumps(sorted(answers)), world)]
    return {index: answers[index] for index in set.intersection(*of_ranks)}


def refuse_other_requests(kind: str, requests: Sequence[Any], world: World) -> None:
    """Refuse to share requests out that are not the same on every rank. Collective: yes.

    Raises:
        LopeError: they differ, as where a host has another revision of a data set.
    """
    refuse_unlike(
        {"questions": json_hash([kind, *requests])},
        world,
        "the hosts' data sets or task definitions differ; give all hosts the same (HF_HOME on a "
        "shared file system, or one copied cache)",
    )


def _read(path: Path) -> dict[str, Any]:
    answers = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                record = json.loads(line)
                answers[record["request"]] = record["answer"]
            except (ValueError, TypeError, KeyError):
                continue  # half written
    return answers


def _is_sampled(arguments: Sequence[Any]) -> bool:
    """Tell whether the answer is drawn, and another one would be given the next time.

    As lm-eval's `normalize_gen_kwargs` has it: where nothing is said of sampling, a temperature
    above 0 asks for it.
    """
    options = arguments[-1]
    if not isinstance(options, dict):
        return False
    if (drawn := options.get("do_sample")) is not None:
        return bool(drawn)
    return float(options.get("temperature") or 0.0) > 0
