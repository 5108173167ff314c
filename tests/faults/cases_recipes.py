"""Recipes and chat templates of strangers: they see no secret and take no hour."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import yaml
from faults.base import case
from faults.commands import lope, refused
from faults.runs import write_recipe

from lope_dist.corpus.tokens import slow_text

GROUP = "Recipes and templates of strangers"
SECRET = "s3cr3tv4lue"
MOST_S = 60.0
"""Of processor time, with all imports: bounds are 20 s and less."""


def _changed(recipe: Path, **changes: Any) -> Path:
    tree = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump(tree | changes, sort_keys=False))
    return recipe


def _keeps_the_secret(folder: Path, **changes: Any) -> dict[str, Any]:
    os.environ["HF_TOKEN"] = SECRET
    recipe = _changed(write_recipe(folder), **changes)
    for verb in ("check", "train"):
        ended = lope(verb, recipe)
        assert ended.status == 2, ended.said
        assert SECRET not in ended.said
        assert "Traceback" not in ended.said
    written = [p for p in folder.rglob("*") if p.is_file() and SECRET in p.read_text("latin-1")]
    assert not written
    return {}


@case(
    "a recipe asks for a secret",
    group=GROUP,
    states="`${oc.env:HF_TOKEN}` in a recipe: refused, and said and written nowhere.",
)
def _secret(folder: Path) -> dict[str, Any]:
    return _keeps_the_secret(folder, output_dir="${oc.env:HF_TOKEN}")


@case(
    "a recipe asks for a secret in disguise",
    group=GROUP,
    states="The same where the resolver's name is put together from other values of the recipe.",
)
def _disguised(folder: Path) -> dict[str, Any]:
    data = {"path": str(folder), "columns": {"input": "env", "output": "oc.env"}}
    for value in (
        "${oc.${data.columns.input}:HF_TOKEN}",
        "${${data.columns.output}:HF_TOKEN}",
        "${oc.decode:'${oc.${data.columns.input}:HF_TOKEN}'}",
    ):
        _keeps_the_secret(folder, data=data, output_dir=value)
    return {"disguises": 3}


@case(
    "the name of a layer asks for a secret",
    group=GROUP,
    states="The same in `include`, whose error would name the file.",
)
def _include(folder: Path) -> dict[str, Any]:
    _keeps_the_secret(folder, include="${oc.env:HF_TOKEN}")
    return _keeps_the_secret(folder, kind="env", include=["${oc.${kind}:HF_TOKEN}"])


def _bounded(*arguments: object, told: tuple[str, ...]) -> dict[str, Any]:
    began = time.process_time()
    refused(*arguments, told=told)
    seconds = time.process_time() - began
    assert seconds < MOST_S, seconds
    return {"processor time (s)": round(seconds, 1)}


@case(
    "layers that include one another twice",
    group=GROUP,
    states="30 files that include the next one twice end in one sentence, not in 2^30 reads.",
)
def _includes(folder: Path) -> dict[str, Any]:
    for number in range(30):
        follower = f"{number + 1}.yaml"
        (folder / f"{number}.yaml").write_text(f"include: [{follower}, {follower}]\n")
    (folder / "30.yaml").write_text("seed: 1\n")
    return _bounded("check", folder / "0.yaml", told=("more than 256 files",))


@case(
    "values and aliases that grow",
    group=GROUP,
    states="Interpolations and YAML aliases that double with each line end in one sentence.",
)
def _growing(folder: Path) -> dict[str, Any]:
    doubling = [f"k{i}: ${{k{i - 1}}}${{k{i - 1}}}" for i in range(1, 60)]
    (folder / "values.yaml").write_text("\n".join(["k0: x", *doubling]))
    tenfold = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (folder / "aliases.yaml").write_text("\n".join(["a0: &a0 [x, x, x, x]", *tenfold]))
    figures = _bounded("check", folder / "values.yaml", told=("values.yaml",))
    refused("check", folder / "aliases.yaml", told=("aliases.yaml",))
    return figures


@case(
    "a model of 10^7 layers",
    group=GROUP,
    states="Counts of layers or experts that would be built for hours are refused at once, from a "
    "recipe and from a `config.json`.",
)
def _layers(folder: Path) -> dict[str, Any]:
    recipe = write_recipe(folder)
    architecture = {"model_type": "llama", "num_hidden_layers": 10**7}
    told = ("num_hidden_layers = 10000000 is more than 4096",)
    settings = [f"model.architecture.{key}={value}" for key, value in architecture.items()]
    _bounded("params", recipe, *settings, told=told)
    own = folder / "model"
    shutil.copytree(folder.parent / "inputs" / "model", own)
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**7}))
    return _bounded("check", recipe, f"model.name_or_path={own}", told=told)


@case(
    "odd values in a recipe",
    group=GROUP,
    states="A number of 5,000 digits, nesting without end, a list of numbers as `include`, a NUL "
    "byte, another encoding: one sentence each.",
)
def _odd(folder: Path) -> dict[str, Any]:
    recipe = folder / "recipe.yaml"
    texts = [
        b"seed: " + b"9" * 5000,
        b"seed: " + b"[" * 5000,
        b"include: [1, 2]\n",
        b"include: {a: b}\n",
        b"seed: 1\0\n",
        "seed: 1 # ü".encode("utf-16"),
        b"\xff\xfe\xfd",
        b"- a\n- b\n",
        b"seed: !!python/object/apply:os.system ['true']\n",
        b"? [a, b]\n: c\n",
        b"seed: .nan\n",
        b"output_dir: ${output_dir}\n",
    ]
    for text in texts:
        recipe.write_bytes(text)
        refused("check", recipe, told=())
    return {"texts": len(texts)}


BOMBS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "grows": "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}"
    "{% endfor %}",
    "recurses": "{% macro m(n) %}{% for i in range(9) %}{{ m(n) if n else i }}{{ m(n - 1) }}"
    "{% endfor %}{% endmacro %}{{ m(99) }}",
    "multiplies": "{{ 'x' * 10 ** 10 }}",
}


def _bomb(folder: Path, name: str) -> dict[str, Any]:
    recipe, own = write_recipe(folder), folder / "model"
    shutil.copytree(folder.parent / "inputs" / "model", own)
    path = own / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"chat_template": BOMBS[name]}
    path.write_text(json.dumps(settings))
    overrides = (f"model.name_or_path={own}", "data.template=chat")
    return _bounded("check", recipe, *overrides, told=("chat template",))


@case("a template that loops", group=GROUP, states="A chat template of 10^15 turns is stopped.")
def _loops(folder: Path) -> dict[str, Any]:
    return _bomb(folder, "loops")


@case("a template that grows", group=GROUP, states="One that builds 2^99 characters is stopped.")
def _grows(folder: Path) -> dict[str, Any]:
    return _bomb(folder, "grows")


@case("a template that recurses", group=GROUP, states="One that calls itself for ever is stopped.")
def _recurses(folder: Path) -> dict[str, Any]:
    return _bomb(folder, "recurses")


@case("a template that multiplies", group=GROUP, states="One that asks for 10 GB is stopped.")
def _multiplies(folder: Path) -> dict[str, Any]:
    return _bomb(folder, "multiplies")


@case(
    "a tokenizer that tries without end",
    group=GROUP,
    states="A regular expression in `tokenizer.json` that would try for a quarter of an hour at "
    "one row is stopped, and the row named.",
)
def _tries(folder: Path) -> dict[str, Any]:
    recipe, own = write_recipe(folder), folder / "model"
    shutil.copytree(folder.parent / "inputs" / "model", own)
    path = own / "tokenizer.json"
    tree = json.loads(path.read_text())
    bomb = {"type": "Split", "pattern": {"Regex": "a*a*a*c"}, "behavior": "Isolated"}
    before = tree["pre_tokenizer"]
    split = bomb | {"invert": False}
    tree["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, before]}
    path.write_text(json.dumps(tree))
    rows = folder / "rows.jsonl"
    lines = (folder.parent / "inputs" / "rows.jsonl").read_text().splitlines()
    lines[40] = json.dumps({"instruction": "q", "input": "", "output": "aaaaaaaaa!c" * 2_000})
    lines[41] = json.dumps({"instruction": "q", "input": "", "output": ("a" * 400 + "!c") * 300})
    rows.write_text("\n".join(lines) + "\n")
    slow_text._MOST_S = 10.0  # what it is counts for no kind of harm
    overrides = (f"model.name_or_path={own}", f"data.path={rows}")
    return _bounded("check", recipe, *overrides, told=("rows.jsonl, line 42: The tokenizer takes",))
