"""Experts as a list of modules: what ZeRO-3 must gather whole.

A pass goes through those experts alone that some token was sent to, and these are others on each
rank. DeepSpeed gathers module by module, as each rank comes to it: the ranks would put together
parts of different experts.
"""

from __future__ import annotations

from torch import nn


def gather_experts_whole(model: nn.Module) -> None:
    """Have DeepSpeed gather lists of experts with the module that goes through them.

    Before `deepspeed.initialize`. A list of like modules within a layer counts as experts; one
    that is none is gathered whole in vain. Banks, which are one tensor, are not concerned.
    """
    from deepspeed.utils import set_z3_leaf_module

    for module in _through_experts(model, is_in_layer=False):
        set_z3_leaf_module(module, True)


def _through_experts(module: nn.Module, *, is_in_layer: bool) -> list[nn.Module]:
    """Return the outermost modules below this one whose forward pass goes through experts."""
    through = []
    for child in module.children():
        if is_in_layer and _is_list_of_alike(child):
            through.append(child if _has_forward(child) else module)
        else:
            in_list = is_in_layer or isinstance(module, nn.ModuleList)
            through += _through_experts(child, is_in_layer=in_list)
    return through


def _is_list_of_alike(module: nn.Module) -> bool:
    children = list(module.children())
    is_list = isinstance(module, nn.ModuleList | nn.ModuleDict)
    return is_list and len(children) > 1 and len({type(child) for child in children}) == 1


def _has_forward(module: nn.Module) -> bool:
    return type(module).forward not in (nn.ModuleList.forward, nn.ModuleDict.forward)
