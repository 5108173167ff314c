"""What a reader asks an export with, as its run is asked: tokenizer, template, ends of answers."""

from __future__ import annotations

from pathlib import Path

from transformers import GenerationConfig

from lope_dist.core.runlog import read_json, write_json
from lope_dist.evaluate.loaded.load import LoadedRun
from lope_dist.evaluate.loaded.prompts import ends_of_answer
from lope_dist.model.build import read_tokenizer
from lope_dist.model.source import model_folder

_GENERATION = "generation_config.json"


def write_asking(folder: Path, run: LoadedRun) -> None:
    """Write the tokenizer, with the run's chat template, and `generation_config.json`.

    The latter is the base's, but for `eos_token_id`: all tokens that end an answer of the run.
    """
    settings = run.config.model
    source = model_folder(settings)
    # The base's own: the run's has a padding token, whether the base has one or not.
    read_tokenizer(source, settings).save_pretrained(folder)
    if (source / _GENERATION).is_file():
        values = read_json(source / _GENERATION)
    else:  # as transformers makes it of the model's configuration
        values = GenerationConfig.from_model_config(run.model.config).to_diff_dict()
        values.pop("_from_model_config", None)
    write_json(folder / _GENERATION, values | {"eos_token_id": ends_of_answer(run)})
