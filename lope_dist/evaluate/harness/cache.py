"""lm-eval's `--use_cache`, with a table of its own for each model that answers.

lm-eval finds an answer by what was asked alone, so a file would give the answers of one adapter, or
of one row, as another's.
"""

from __future__ import annotations

from typing import Any

from lope_dist.core.fingerprint import json_hash


def use_table_of(cache: Any, identity: Any) -> None:
    """Let lm-eval read and write the answers of one model.

    Args:
        cache: lm-eval's `SqliteDict`.
        identity: All that the answers depend on beside what is asked; JSON-able.
    """
    table = f"lope_{json_hash(identity)}"
    cache.conn.execute(f'CREATE TABLE IF NOT EXISTS "{table}" (key TEXT PRIMARY KEY, value BLOB)')
    cache.conn.commit()
    cache.tablename = table
