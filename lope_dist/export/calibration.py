"""The examples that an export's fixed weights are averaged over and compared on."""

from __future__ import annotations

from lope_dist.config.noise import NoiseConfig
from lope_dist.config.train import StageConfig
from lope_dist.core.roles import Role
from lope_dist.corpus.feed.batches import MicroBatch
from lope_dist.corpus.feed.loader import StageLoader
from lope_dist.evaluate.loaded.load import LoadedRun
from lope_dist.model.families import decoder_start_of
from lope_dist.train.premises.data import open_rows

_MOST_ROWS, _MOST_TOKENS = 4, 8192
"""Of a forward pass; the logits of four models are held at a time."""


def calibration_batches(
    run: LoadedRun, path: str | None, num_rows: int
) -> tuple[list[MicroBatch], list[MicroBatch]]:
    """Return batches to average over and other ones to compare on, at most ``num_rows`` each.

    The examples are read as in training, without any noise and unpacked, in the run's order.
    With fewer than twice ``num_rows`` examples each part gets half of them.

    Args:
        run: As whose rows they are read.
        path: File of examples; None for those that the run trained on.
        num_rows: Examples of each part.

    Raises:
        LopeError: the file holds no examples, or bad ones.
    """
    config, arch = run.config, run.model.config
    data = config.data if path is None else config.data.of_file(path)
    data = data.model_copy(update={"packing": False, "corpus": None, "workers": 0})
    config = config.model_copy(update={"data": data})
    source = open_rows(config, run.tokenizer, arch)
    half = max(1, min(num_rows, len(source) // 2))
    rows_per_batch = max(1, min(_MOST_ROWS, _MOST_TOKENS // data.max_length))
    sizes = {"global_batch": half, "micro_batch": rows_per_batch}
    changes = {"noise": NoiseConfig(), "train": config.train.model_copy(update=sizes)}
    loader = StageLoader(
        source,
        run.tokenizer,
        config.model_copy(update=changes),
        StageConfig(trainable=(Role.SHARED_A,)),
        rank=0,
        world_size=1,
        decoder_start_token_id=decoder_start_of(arch),
    )
    first = loader.micro_batches(0)
    return first, loader.micro_batches(1) if loader.num_steps > 1 else first
