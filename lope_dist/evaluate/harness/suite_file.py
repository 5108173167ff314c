"""Suites by name (`eval/suites/NAME.yaml`) or by file."""

from __future__ import annotations

from pathlib import Path

from lope_dist.config.load import load_section
from lope_dist.config.noise import NoiseConfig
from lope_dist.config.suite import SuiteConfig
from lope_dist.core.errors import LopeError, suggest
from lope_dist.core.fingerprint import fingerprint
from lope_dist.core.shipped import shipped
from lope_dist.noise.mix import check_operations

SUITES = shipped("eval/suites")


def load_suite(name_or_file: str) -> SuiteConfig:
    """Read a suite; its `include_path`, an included file's too, is taken from this file's folder.

    Raises:
        LopeError: no such suite, or one that is not valid.
    """
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        path = SUITES / f"{name_or_file}.yaml"
    if not path.is_file():
        suites = sorted(file.stem for file in SUITES.glob("*.yaml"))
        raise LopeError(
            f"--suite: '{name_or_file}' is neither a YAML file nor among the suites "
            f"{', '.join(suites) or '(none)'} of {SUITES}.{suggest(name_or_file, suites)}"
        )
    suite = load_section(SuiteConfig, path)
    if suite.noise is not None:
        try:
            check_operations(NoiseConfig(text=suite.noise.text))
        except LopeError as error:
            raise LopeError(f"{path}: {error}") from None
    if suite.include_path is None:
        return suite
    return suite.model_copy(update={"include_path": str(path.parent / suite.include_path)})


def fingerprint_of_tasks(folder: str) -> str | None:
    """Return a hash of the files of task definitions, not of Python's caches; None: no folder."""
    files = (file for file in sorted(Path(folder).rglob("*")) if file.is_file())
    kept = [file for file in files if "__pycache__" not in file.parts]
    return fingerprint(kept or [folder])
