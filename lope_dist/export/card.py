"""The README.md of an export: what it is, what it was made of, how good it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lope_dist.config.schema import RunConfig
from lope_dist.export.formats import Written
from lope_dist.report.read import score_table
from lope_dist.report.tables import SCORES, format_score, part_asked

_TITLES = {
    "purified": "LoPE adapter, purified",
    "peft": "LoPE adapter as a static LoRA",
    "merged": "LoPE model, merged",
}
_LIBRARIES = {"purified": "lope_dist", "peft": "peft", "merged": "transformers"}


def model_card(
    kind: str,
    config: RunConfig,
    identity: Mapping[str, Any],
    written: Written,
    results: Mapping[str, Any] | None,
) -> str:
    """Return the text of a model card with its YAML header.

    Args:
        kind: `purified`, `peft` or `merged`.
        config: The run's.
        identity: `checkpoint`, `adapter_sha256` and `data_fingerprint` of the run.
        written: What was found of it.
        results: The run's `results.json`, where it was scored.
    """
    base = config.model.name_or_path
    is_on_hub = ":" not in base and not Path(base).exists()
    header: dict[str, Any] = {"library_name": _LIBRARIES[kind], "tags": ["lope", "lora"]}
    if is_on_hub:
        header["base_model"] = base
    adapter, noise = config.lope_adapter("lope export"), config.noise
    stages = ", ".join(f"{name} ({stage.noise})" for name, stage in config.train.stages.items())
    names = ", ".join(f"`{Path(path).name}`" for path in config.data.paths)
    data = f"{names}, fingerprint `{identity['data_fingerprint']}`"
    facts = {
        "base model": f"`{base}`"
        + (f", revision {config.model.revision}" * bool(config.model.revision)),
        "quantization in training": config.model.quantization,
        "adapter": f"rank {adapter.rank}, lora_alpha {adapter.lora_alpha:g}, "
        f"{adapter.num_normal} normal + {adapter.num_poison} poisoning experts",
        "data": data,
        "noise of the data": f"rate {noise.data.rate:g}",
        "injected noise": f"text {noise.text.rate:g} ({', '.join(noise.text.operations)}), "
        f"embeddings alpha {noise.embedding.alpha:g}",
        "stages (noise injected)": stages,
        "checkpoint": f"`{identity['checkpoint']}`, sha256 `{identity['adapter_sha256']}`",
    }
    how = _HOW[kind].format(
        base=written.base,
        revision=f', revision="{written.revision}"' if written.revision else "",
        reader=written.reader,
        dtype=config.model.dtype,
        quantized="in NF4" if config.model.quantization == "nf4" else "as it is",
        distance=_EXACT if written.is_exact else _MEAN,
    )
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n# {_TITLES[kind]}\n",
        how,
        "## Made of\n\n| | |\n| --- | --- |\n" + _rows(facts),
    ]
    if written.comparison is not None:
        parts.append(_comparison(written.comparison))
    if results is not None and (lines := _results(results["rows"], identity["adapter_sha256"])):
        parts.append(lines)
    parts.append(
        "The licences of the base model and of the data hold. Method: LoPE, arXiv 2505.23868.\n"
    )
    return "\n".join(parts)


_HOW = {
    "purified": """The poisoning expert, which has learnt the noise, is not in this file: the Gram
matrices of the experts are in its place, and masked answers are those of the trained adapter.

```sh
lope eval FOLDER --tasks piqa --experts masked
```

```python
from pathlib import Path
from lope_dist import load_run

run = load_run(Path("FOLDER"))  # run.model, run.tokenizer
```
""",
    "peft": """{distance} The base is in {dtype} here; the run was trained on it {quantized}.

```python
from peft import PeftModel
from transformers import AutoTokenizer, GenerationConfig, {reader}

base = {reader}.from_pretrained("{base}"{revision}, dtype="{dtype}")
model = PeftModel.from_pretrained(base, "FOLDER")
model.generation_config = GenerationConfig.from_pretrained("FOLDER")  # where answers end
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```
""",
    "merged": """{distance}

```python
from transformers import AutoTokenizer, {reader}

model = {reader}.from_pretrained("FOLDER", dtype="{dtype}")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```
""",
}
_EXACT = "Read back from disk, it answered as the run does, up to rounding."
_MEAN = """The trained router weighs the experts token by token. Here each expert has its mean
weight over a calibration set, so this is an approximation; its distance is below."""


def _rows(facts: Mapping[str, str]) -> str:
    return "".join(f"| {key} | {value} |\n" for key, value in facts.items())


def _comparison(stats: Mapping[str, float]) -> str:
    rows = {
        "routed": f"0 | 100 | {100 * stats['accuracy_routed']:.2f} | {stats['loss_routed']:.4f}",
        "this export": f"{stats['kl']:.5f} | {100 * stats['agreement']:.2f} | "
        f"{100 * stats['accuracy_exported']:.2f} | {stats['loss_exported']:.4f}",
        "base": f"{stats['kl_base']:.5f} | | {100 * stats['accuracy_base']:.2f} | "
        f"{stats['loss_base']:.4f}",
    }
    tokens = f"Over {stats['tokens']:.0f} response tokens, nats a token."
    head = "| | KL from routed | same choice % | accuracy % | loss |\n" + "| --- " * 5 + "|\n"
    return f"## Beside the routed model\n\n{tokens}\n\n{head}{_rows(rows)}"


def _results(rows: Sequence[Mapping[str, Any]], adapter: str) -> str:
    """Return the scores of the base and of this adapter, not those of another checkpoint."""
    of_this = {
        "rows": [r for r in rows if r["name"] == "base" or r.get("adapter_sha256") == adapter]
    }
    table = score_table(of_this)
    if not table.lines:
        return ""
    lines = [
        f"| of the run | {' | '.join(table.models)} |",
        "| --- " * (len(table.models) + 1) + "|",
    ]
    for line in table.lines:
        cells = (format_score(table.scores.get((line, model))) for model in table.models)
        lines.append(f"| {line} | {' | '.join(cells)} |")
    note = f"{SCORES}. {part_asked(of_this)}".strip()
    return f"## Scores of the run\n\n{note}\n\n" + "\n".join(lines) + "\n"
