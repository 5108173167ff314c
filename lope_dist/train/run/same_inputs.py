"""Whether all ranks train the same: one recipe, the same rows, the same tokenizer and base.

Hosts may have disks, caches and recipes of their own, and each rank reads those of its host.
"""

from __future__ import annotations

from typing import Any

from lope_dist.engine.exchange import refuse_unlike
from lope_dist.train.run.setup import Inputs
from lope_dist.train.trackers.base import flat_config

_OF_A_HOST: dict[str, Any] = {
    "output_dir": True,
    "model": {"name_or_path", "revision", "trust_remote_code"},
    "data": {
        "path": True,
        "sources": {"__all__": {"path"}},
        "validation": {"path"},
        "corpus": True,
        "workers": True,
    },
    "engine": {"interface"},
}
"""Settings that change nothing of a step: where things are, of which the content is compared."""


def refuse_other_inputs(inputs: Inputs) -> None:
    """Refuse ranks that would train another thing than rank 0. Reads no weights.

    Collective: yes.

    Raises:
        LopeError: on every rank; names the part, the ranks and their hosts.
    """
    recipe = flat_config(inputs.config.model_dump(mode="json", exclude=_OF_A_HOST))
    rows = {"rows for training": inputs.source, "rows for validation": inputs.validation}
    of_rows = {
        name: None if source is None else [source.fingerprint, *source.sizes]
        for name, source in rows.items()
    }
    day = inputs.config.data.template_date
    same_day = ", and where only the day differs set data.template_date=DAY"
    refuse_unlike(
        recipe | of_rows | inputs.fingerprints,
        inputs.world,
        "start all ranks with the same recipe, rows, tokenizer and base, from a file system that "
        f"all hosts share or from equal copies{same_day if day else ''}",
    )
