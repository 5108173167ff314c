"""Which layers' weights a model reads past the layer, by the source of its classes.

`self.dt_proj(x)` can be answered by a layer whose weight is packed; `self.dt_proj.weight @ x`
cannot. State-space mixers, whose fused kernels take whole weights, write the second.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from types import CodeType, FunctionType
from typing import NamedTuple

from torch import nn

_DESCRIBES = frozenset({"dtype", "device", "shape", "is_meta", "requires_grad"})
_BEFORE_ANY_FORWARD = frozenset({"__init__", "_init_weights", "init_weights", "_tie_weights"})


class Guard(NamedTuple):
    """An `if` around a read, and which of its branches the read is in."""

    test: CodeType
    branch: bool


class Read(NamedTuple):
    """`self.CHILD.weight` in the source of a class."""

    child: str
    guards: tuple[Guard, ...]


def weights_read_outside(model: nn.Module) -> set[int]:
    """Return the identities of the weights that are read by the module around their layer."""
    identities: set[int] = set()
    for module in model.modules():
        for read in _reads_of_class(type(module)):
            weight = getattr(getattr(module, read.child, None), "weight", None)
            if isinstance(weight, nn.Parameter) and all(_may_hold(g, module) for g in read.guards):
                identities.add(id(weight))
    return identities


def mark_read_outside(model: nn.Module) -> None:
    """Tell the layers whose weights are read past them: what an adapter adds would be passed by."""
    read = weights_read_outside(model)
    for module in model.modules():
        if isinstance(module, nn.Linear) and id(module.weight) in read:
            module.is_read_outside = True  # type: ignore[assignment]


def _may_hold(guard: Guard, module: nn.Module) -> bool:
    try:
        return bool(eval(guard.test, {}, {"self": module})) is guard.branch
    except Exception:  # the test is the model's; whatever it raises here, it may hold later
        return True


@cache
def _reads_of_class(owner: type[nn.Module]) -> tuple[Read, ...]:
    """Return the reads in a class and in those that it inherits from."""
    return tuple(
        read
        for ancestor in owner.__mro__[: owner.__mro__.index(nn.Module)]
        for function in vars(ancestor).values()
        if inspect.isfunction(function) and function.__name__ not in _BEFORE_ANY_FORWARD
        for read in _reads_of_function(function)
    )


def _reads_of_function(function: FunctionType) -> list[Read]:
    try:
        source = inspect.getsource(inspect.unwrap(function))
        tree = ast.parse(textwrap.dedent(source))
    except (OSError, SyntaxError):  # made at run time
        return []
    return list(_reads(tree, ()))


def _reads(node: ast.AST, guards: tuple[Guard, ...]) -> Iterator[Read]:
    match node:
        case ast.Call(func=ast.Name(id="isinstance")):  # asks for the class alone
            return
    if isinstance(node, ast.Attribute):
        if node.attr in _DESCRIBES:
            return
        if node.attr == "weight" and isinstance(node.ctx, ast.Load) and (name := _child(node)):
            yield Read(name, guards)
    if isinstance(node, ast.If) and _asks_self_alone(node.test):
        test = compile(ast.Expression(node.test), "<if>", "eval")
        for branch, statements in ((True, node.body), (False, node.orelse)):
            for statement in statements:
                yield from _reads(statement, (*guards, Guard(test, branch)))
        return
    for inner in ast.iter_child_nodes(node):
        yield from _reads(inner, guards)


def _child(node: ast.Attribute) -> str | None:
    """Return X of `self.X.weight`."""
    layer = node.value
    if isinstance(layer, ast.Attribute) and isinstance(layer.value, ast.Name):
        return layer.attr if layer.value.id == "self" else None
    return None


def _asks_self_alone(test: ast.expr) -> bool:
    """Return whether a test has the same answer in every forward pass: settings, no inputs."""
    nodes = list(ast.walk(test))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return names == {"self"} and "training" not in attributes
