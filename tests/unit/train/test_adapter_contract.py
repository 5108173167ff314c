"""An adapter's parameters are read in their own module's forward and nowhere else.

ZeRO-3 gathers a module's own parameters around its forward and its backward pass; whoever reads
them at another time finds nothing, or pins what was gathered. The training loop computes its
micro-batches here while a watcher looks at the tensors of every operation.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.baselines import ALL, stage_of
from support.quick import quick
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lope_dist.adapters.base import adapter_modules
from lope_dist.adapters.inject import set_trainable
from lope_dist.config.load import validate_config
from lope_dist.train import session
from lope_dist.train.stage import loop


class Watcher(TorchDispatchMode):
    """Notes operations on an adapter's values outside their own module's forward.

    In the backward pass it looks at what is computed again, and not at the gradients' own
    operations: these belong to a module whose output has its gradient.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.running: list[torch.nn.Module] = []
        self.owners: dict[int, tuple[str, torch.nn.Module]] = {}
        self.read: set[str] = set()
        self.outside: set[str] = set()
        for prefix, adapter in adapter_modules(model).items():
            for name in adapter.roles():
                owner, _, leaf = name.rpartition(".")
                module = adapter.get_submodule(owner)
                storage = module.get_parameter(leaf).untyped_storage()
                self.owners[storage.data_ptr()] = (f"{prefix}.{name}", module)
        for module in {owner for _, owner in self.owners.values()}:
            module.register_forward_pre_hook(lambda it, _: self.running.append(it))
            module.register_forward_hook(lambda it, *_: self.running.remove(it), always_call=True)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        in_backward = torch._C._current_graph_task_id() != -1
        for value in tree_leaves((args, kwargs or {})):
            if isinstance(value, torch.Tensor):
                name, owner = self.owners.get(value.untyped_storage().data_ptr(), ("", None))
                if owner is not None and owner in self.running:
                    self.read.add(name)
                elif owner is not None and not (in_backward and not torch.is_grad_enabled()):
                    self.outside.add(f"{name} by {func}")
        return func(*args, **(kwargs or {}))


CASES = [(name, recomputes) for name in ALL for recomputes in (False, True)]
ONCE = ("prefix_tuning", "lope_rank")
"""They are looked at in plain passes; whatever is recomputed passes twice, the others do so."""


@pytest.mark.parametrize(
    ("name", "recomputes"),
    quick(CASES, *((name, recomputes) for name, recomputes in CASES if recomputes or name in ONCE)),
)
def test_parameters_are_read_in_their_own_forward(
    config_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, recomputes: bool
) -> None:
    if recomputes and name == "prefix_tuning":
        pytest.skip("refused by the configuration")
    tree = config_in(tmp_path / "run").model_dump(mode="json")
    tree["model"]["gradient_checkpointing"] = recomputes
    tree["adapter"], tree["data"]["packing"] = ALL[name], False
    tree["noise"]["data"] = {"rate": 0.1}
    tree["train"]["stages"] = {"only": stage_of(name) | {"max_steps": 2}}
    watchers: list[Watcher] = []

    def load(inputs):
        loaded = load_session(inputs)
        set_trainable(loaded.model, [])
        watchers.append(Watcher(loaded.model))
        return loaded

    def micro_step(*arguments):
        with watchers[0]:
            return real_micro_step(*arguments)

    load_session, real_micro_step = session.load_session, loop._micro_step
    monkeypatch.setattr(session, "load_session", load)
    monkeypatch.setattr(loop, "_micro_step", micro_step)
    session.train(validate_config(tree, "test"))
    (watcher,) = watchers
    assert watcher.read == {name for name, _ in watcher.owners.values()}
    assert not watcher.outside
