"""Help: every command has an example that it understands, and the shell can complete them all."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from lope_dist.cli import app


def leaves(group: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return all commands that run, by what is typed for them."""
    found = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= leaves(command, (*path, name))
        else:
            found[" ".join((*path, name))] = command
    return found


COMMANDS = leaves(typer.main.get_command(app))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_it_understands(name: str) -> None:
    command = COMMANDS[name]
    (example,) = re.findall(r"Example: (lope .*)", command.help)
    words = shlex.split(example)[1:]
    assert " ".join(words).startswith(name)
    given = words[len(name.split()) :]
    assert command.make_context(name, given).params


def test_the_shell_completes_commands() -> None:
    asked = {"_LOPE_COMPLETE": "complete_bash", "COMP_WORDS": "lope comp", "COMP_CWORD": "1"}
    shown = CliRunner().invoke(app, [], prog_name="lope", env=asked)
    assert shown.output.split() == ["compare"]
