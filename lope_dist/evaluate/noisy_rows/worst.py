"""The rows that look noisiest, with the tokens that the model finds hardest, for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lope_dist.config.schema import RunConfig
from lope_dist.corpus.examples.source import ExampleSource
from lope_dist.corpus.tokens.encode import encode
from lope_dist.evaluate.noisy_rows.scores import Measures
from lope_dist.model.build import architecture, load_tokenizer
from lope_dist.train.premises.data import form_of


def worst_rows(
    config: RunConfig,
    source: ExampleSource,
    rows: Sequence[Measures],
    of_row: Mapping[tuple[str, int], float],
    by: str,
    count: int,
) -> list[dict[str, Any]]:
    """Return the examples that score highest: `row`, `score`, and `tokens`, each with its mark.

    Marked are the tokens of the hardest tenth, by the masked model where the score is its own. What
    an encoder-decoder model reads is not shown, for nothing of it is predicted.
    """
    tokenizer, arch = load_tokenizer(config.model), architecture(config.model)
    key = "masked_hardest" if by.startswith("masked") else "base_hardest"
    numbers = [n for n in range(len(source)) if source.location(n) in of_row]
    numbers.sort(key=lambda n: -of_row[source.location(n)])
    examples = [source[n] for n in numbers[:count]]
    worst = []
    for example, tokens in zip(
        examples, encode(examples, form_of(config, tokenizer, arch)), strict=True
    ):
        ids, shift = tokens.input_ids, 1
        if arch.is_encoder_decoder:
            ids, shift = tokens.labels, 0
        hard = {position + shift for position in rows[example.id].get(key, ())}
        file, row = source.location(example.id)
        worst.append(
            {
                "file": file,
                "row": row,
                "score": round(of_row[file, row], 4),
                "tokens": [[tokenizer.decode([t]), n in hard] for n, t in enumerate(ids)],
            }
        )
    return worst
