"""One row -> the examples that it becomes, rendered, tokenized, masked and counted.

Rows are taken in order, on one core or on all that this process may use, a chunk at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from lope_dist.core.workers import in_order
from lope_dist.corpus.examples.lines import example_of, line_of
from lope_dist.corpus.rows.turns import Example, RowError
from lope_dist.corpus.tokens.encode import IGNORED, Tokenized, tokenize
from lope_dist.corpus.tokens.pieces import piece_tokens
from lope_dist.corpus.tokens.prompts import Form, Piece, render_rows
from lope_dist.corpus.tokens.slow_text import rows_in_time

_CHUNK = 256
_ALONE = 8  # chunks, at least one, before other processes are started
_MOST = 16  # processes

Where = tuple[int, int]
"""Number of the file and of the row in it."""
LocatedRow = tuple[Where, Example | RowError]


@dataclass(frozen=True)
class CountedExample:
    """One example of a row as a line of the store, and what is counted of it."""

    line: bytes
    """In the store's form."""
    tokens: int = 0
    target_tokens: int = 0
    was_cut: bool = False
    has_control_text: bool = False
    weight: float = 1.0


Outcome = list[CountedExample] | RowError


def survey(
    rows: Iterator[LocatedRow], form: Form | None, limit: int | None, *, keeps_untaught: bool = True
) -> Iterator[tuple[Where, Outcome]]:
    """Yield what becomes of each row, in order, until ``limit`` of them became examples.

    No more rows are taken than the limit may need.

    Args:
        rows: Parsed rows, or the reason why a row is bad.
        form: How they become tokens; None: they are only checked as far as they are read.
        limit: Of good rows.
        keeps_untaught: Whether a row whose answers lie wholly behind the cut is a good one.

    Raises:
        LopeError: a tokenizer that the template does not fit; a process that was killed.
        SlowRow: the tokenizer does not come to an end with a row.
    """
    good, num_taken = 0, -1
    while num_taken and (limit is None or good < limit):
        num_taken = 0
        for chunk, outcomes_of_chunk in _surveyed(islice(rows, limit and limit - good), form):
            for (where, _), outcome in zip(chunk, outcomes_of_chunk, strict=True):
                num_taken += 1
                if form is not None and not keeps_untaught and _is_untaught(outcome):
                    outcome = _behind_the_cut(form)
                good += isinstance(outcome, list) and bool(outcome)
                yield where, outcome


def _is_untaught(outcome: Outcome) -> bool:
    """Return whether a row has examples and none of them has anything to learn."""
    return (
        isinstance(outcome, list)
        and bool(outcome)
        and not any(example.target_tokens for example in outcome)
    )


def _surveyed(
    rows: Iterator[LocatedRow], form: Form | None
) -> Iterator[tuple[Sequence[LocatedRow], list[Outcome]]]:
    """Yield chunks of rows and what becomes of them; of many, by several processes."""

    def make(chunk: Sequence[LocatedRow]) -> list[Outcome]:
        return rows_in_time(lambda rows: outcomes(rows, form), chunk)

    workers = 1 if form is None else min(_MOST, len(os.sched_getaffinity(0)))
    chunks = iter(lambda: list(islice(rows, _CHUNK)), [])
    for number, chunk in enumerate(chunks, start=1):
        yield chunk, make(chunk)
        if number == _ALONE and workers > 1:
            break
    else:
        return
    yield from in_order(
        make,
        chunks,
        workers,
        what="the pass over the rows",
        remedy="start again on fewer cores, as by `taskset -c 0-1`",
    )


def outcomes(rows: Sequence[Example | RowError], form: Form | None) -> list[Outcome]:
    """Return what becomes of some rows."""
    results: list[Outcome] = [row if isinstance(row, RowError) else [] for row in rows]
    parts: list[_Part] = []
    for number, row in enumerate(rows):
        if isinstance(row, RowError):
            continue
        try:
            line = line_of(row)
            row = example_of(row.id, line)  # what is rendered is what the store gives back
            if form is None:
                results[number] = [CountedExample(line)]
            elif row.tokens is not None:
                if _has_label(row, form):
                    parts.append(_Part(number, row, [], line))
            elif row.learnt:
                # What a decoder of its own writes is one answer; all before it is read.
                for example, pieces in render_rows(row, form, apart=form.is_encoder_decoder):
                    example_line = line if example is row else line_of(example)
                    parts.append(_Part(number, example, pieces, example_line))
        except RowError as error:
            results[number] = error
    if form is None:
        return results
    for part, tokens in _tokenized(parts, form):
        examples = results[part.row]
        if isinstance(examples, list):
            try:
                examples.append(_counted(part, tokens, form))
            except RowError as error:
                results[part.row] = error
    return results


class _Part(NamedTuple):
    """One example of a row, rendered."""

    row: int
    example: Example
    pieces: list[Piece]
    line: bytes


def _tokenized(parts: Sequence[_Part], form: Form) -> Iterator[tuple[_Part, Tokenized]]:
    """Yield the examples with their tokens.

    A row of several answers that inference would tokenize otherwise becomes a row for each answer.
    """
    tokenized = tokenize([p.example for p in parts], [p.pieces for p in parts], form)
    drifted = _drifted([p.pieces for p in parts], tokenized, form)
    for number, (part, tokens) in enumerate(zip(parts, tokenized, strict=True)):
        if number not in drifted:
            yield part, tokens
            continue
        for example, pieces in render_rows(part.example, form, apart=True):
            (tokens_alone,) = tokenize([example], [pieces], form)
            yield _Part(part.row, example, pieces, line_of(example)), tokens_alone


def _drifted(
    pieces: Sequence[Sequence[Piece]], tokenized: Sequence[Tokenized], form: Form
) -> set[int]:
    """Return the rows of several answers whose prompts inference would tokenize otherwise.

    It tokenizes the text of a conversation anew in each turn, and what was the start of an answer
    may become one token with what stands before it.
    """
    if form.template != "chat" or form.is_encoder_decoder:
        return set()
    several = [
        number
        for number, of_example in enumerate(pieces)
        if sum(piece.is_target for piece in of_example) > 1
        and not any(p.is_literal for p in of_example)
    ]
    prompts = []
    for number in several:
        of_example = pieces[number]
        end = max(i for i, piece in enumerate(of_example) if not piece.is_target) + 1
        prompts.append([Piece("".join(piece.text for piece in of_example[:end]), False)])
    drifted = set()
    encoded = piece_tokens(prompts, form.tokenizer)
    for number, (sent, _) in zip(several, encoded, strict=True):
        ids = tokenized[number].input_ids
        if ids[: len(sent)] != sent[: len(ids)]:
            drifted.add(number)
    return drifted


def _counted(part: _Part, tokens: Tokenized, form: Form) -> CountedExample:
    ids, labels = tokens.input_ids, tokens.labels
    every = [*ids, *labels] if form.is_encoder_decoder else ids
    if form.vocabulary is not None and every and max(every) >= form.vocabulary:
        raise _beyond(max(every), form.vocabulary)
    # What a decoder-only model's first token is, nothing before it predicts.
    targets = labels if form.is_encoder_decoder else labels[1:]
    return CountedExample(
        part.line,
        len(ids) + len(labels) * form.is_encoder_decoder,
        len(targets) - targets.count(IGNORED),
        tokens.was_cut,
        any(piece.is_literal for piece in part.pieces),
        part.example.weight,
    )


def _has_label(row: Example, form: Form) -> bool:
    """Return whether a row that came as tokens has anything to learn, the cut aside.

    Raises:
        RowError: labels that are not of its tokens, or ids that are none.
    """
    assert row.tokens is not None
    ids, labels = row.tokens
    learnt = [label for label in labels if label != IGNORED]
    if min(ids) < 0 or min(learnt, default=0) < 0:
        raise RowError("ids beyond the vocabulary", "a token id is below 0")
    if form.vocabulary is not None and max(*ids, *learnt, 0) >= form.vocabulary:
        raise _beyond(max(*ids, *learnt), form.vocabulary)
    if form.is_encoder_decoder:
        return bool(learnt)
    if len(ids) != len(labels):
        raise RowError(
            "labels of other tokens", f"it has {len(ids)} input_ids and {len(labels)} labels"
        )
    if any(a not in (b, IGNORED) for a, b in zip(labels, ids, strict=True)):
        raise RowError(
            "labels of other tokens",
            f"a label is neither its input id nor {IGNORED}; labels are not shifted here",
        )
    return any(label != IGNORED for label in labels[1:])


def _behind_the_cut(form: Form) -> RowError:
    return RowError(
        "nothing left to learn",
        f"its whole answer lies beyond data.max_length = {form.max_length}, so it cannot be "
        "learnt; raise data.max_length, or shorten the text before the answer",
    )


def _beyond(token: int, vocabulary: int) -> RowError:
    return RowError(
        "ids beyond the vocabulary",
        f"token id {token} is beyond the model's vocabulary of {vocabulary}",
    )
