"""The examples that an export's fixed weights are averaged over and compared on."""

from __future__ import annotations

from lope_dist.config.data import DataConfig, SourceConfig
from lope_dist.config.noise import NoiseConfig
from lope_dist.config.train import StageConfig
from lope_dist.core.roles import Role
from lope_dist.corpus.batches import MicroBatch
from lope_dist.corpus.loader import StageLoader
from lope_dist.corpus.prompts import Form
from lope_dist.corpus.records import open_source
from lope_dist.evaluate.load import LoadedRun
from lope_dist.model.families import decoder_start_of


def calibration_batches(
    run: LoadedRun, path: str | None, num_rows: int, rows_per_batch: int = 4
) -> tuple[list[MicroBatch], list[MicroBatch]]:
    """Return batches to average over and other ones to compare on, at most ``num_rows`` each.

    The examples are read as in training, without any noise and unpacked, in the run's order.
    With fewer than twice ``num_rows`` examples each part gets half of them.

    Args:
        run: Whose template, tokenizer and length are used.
        path: File of examples; None for the run's training data.
        num_rows: Examples of each part.
        rows_per_batch: Examples of a forward pass.

    Raises:
        LopeError: the file holds no examples, or bad ones.
    """
    config, arch = run.config, run.model.config
    changes: dict[str, object] = {"packing": False, "corpus": None, "workers": 0}
    if path is not None:
        place = SourceConfig(path=path).model_dump(exclude={"weight"})
        changes |= {**place, "sources": ()}
    data = DataConfig.model_validate(config.data.model_dump() | changes)
    form = Form.of(data, run.tokenizer, is_encoder_decoder=arch.is_encoder_decoder)
    source = open_source(data, form)
    half = max(1, min(num_rows, len(source) // 2))
    loader = StageLoader(
        source,
        run.tokenizer,
        data=data,
        noise=NoiseConfig(),
        stage=StageConfig(trainable=(Role.SHARED_A,)),
        seed=config.seed,
        global_batch=half,
        micro_batch=rows_per_batch,
        rank=0,
        world_size=1,
        is_encoder_decoder=arch.is_encoder_decoder,
        decoder_start_token_id=decoder_start_of(arch),
    )
    first = loader.micro_batches(0)
    return first, loader.micro_batches(1) if loader.num_steps > 1 else first
