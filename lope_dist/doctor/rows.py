"""A run's rows on one host; runs there by `python -m lope_dist.doctor rows`."""

from __future__ import annotations

from typing import Any

from lope_dist.config.load import validate_config


def rows(question: dict[str, Any]) -> dict[str, Any]:
    """Read, render and count the rows as a run would there; the run then finds them in the cache.

    Args:
        question: `config`: the run's configuration as JSON.
    """
    from lope_dist.train.premises.data import opened

    _, source, _ = opened(validate_config(question["config"], "the configuration"))
    account = source.account
    return {
        "fingerprint": source.fingerprint,
        "rows": source.bad_rows.num_rows,
        "bad_rows": source.bad_rows.total,
        "examples": account.examples,
        "without_target": account.without_target,
        "tokens": account.tokens,
    }
