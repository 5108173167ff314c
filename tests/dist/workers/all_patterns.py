"""Send all 16-bit patterns through ZeRO-3 as frozen bfloat16: `all_patterns.py OFFLOAD OUT`.

Packed NF4 weights lie in bfloat16 containers, so every pattern occurs, NaNs with any payload among
them. Each layer compares the bytes that it is given, in three passes of two micro-batches forward,
recomputed and backward. Each rank writes OUT/RANK.json: of each layer how often they were equal.
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lope_dist.config.engine import EngineConfig
from lope_dist.config.train import OptimizerConfig
from lope_dist.core.roles import Role
from lope_dist.engine.world import World, start_world
from lope_dist.engine.zero import ZeroEngine
from lope_dist.engine.zero_placement import ZeroPlacement

NUM_LAYERS, NUM_PATTERNS, WIDTH = 4, 1 << 16, 8


def patterns(layer: int) -> Tensor:
    """Return all patterns in an order of this layer's, as bfloat16."""
    every = torch.arange(NUM_PATTERNS, dtype=torch.int32) * 40503 + layer
    return every.to(torch.int16).view(torch.bfloat16)


class Layer(nn.Module):
    """A frozen container of bytes beside a tiny adapter."""

    def __init__(self, number: int) -> None:
        super().__init__()
        stand_in = torch.empty(1, dtype=torch.bfloat16).expand(NUM_PATTERNS)
        self.weight = nn.Parameter(stand_in, requires_grad=False)
        self.adapter = nn.Parameter(torch.full((WIDTH,), 0.5))
        self.number, self.num_equal, self.num_seen = number, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        """Compare the gathered bytes; a NaN is equal to nothing, so they are compared as such."""
        found = self.weight.detach().cpu().view(torch.int16)
        self.num_equal += torch.equal(found, patterns(self.number).view(torch.int16))
        self.num_seen += 1
        return x * self.adapter


class Model(nn.Module):
    """Layers that are computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(map(Layer, range(NUM_LAYERS)))

    def forward(self, x: Tensor, use_cache: bool) -> Tensor:
        """Return one number."""
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False)  # pyright: ignore
        return x.sum()


def load(world: World, config: EngineConfig) -> Model:
    """Return the model of which each rank keeps its part alone."""
    placement, model = ZeroPlacement(world, config), Model()
    start, stop = placement.span(NUM_PATTERNS)
    for layer in model.layers:
        assert isinstance(layer, Layer)
        part = placement.empty_part(NUM_PATTERNS, torch.bfloat16)
        part.view(torch.int16)[: stop - start] = (
            patterns(layer.number).view(torch.int16)[start:stop].to(part.device)
        )
        placement.place(layer.weight, part, torch.Size([NUM_PATTERNS]))
    return model


settings = {"offload": sys.argv[1], "prefetch_bucket_numel": 2 * NUM_PATTERNS, "timeout_s": 60}
config = EngineConfig.model_validate(settings)
world = start_world(config)
model = load(world, config)
adapters = [p for p in model.parameters() if p.requires_grad]
groups = [{"name": str(Role.NORMAL_B), "params": adapters, "lr": 1e-2, "weight_decay": 0.0}]
engine = ZeroEngine(model, groups, OptimizerConfig(), config, world, 1)
for _ in range(3):
    for is_last in (False, True):
        x = torch.ones(1, WIDTH, device=world.device, requires_grad=True)
        engine.backward(engine.forward({"x": x}), is_last)
    engine.step(1.0)
gathered = engine.gather([f"layers.{n}.adapter" for n in range(NUM_LAYERS)])
facts = {
    "seen": [layer.num_seen for layer in model.layers],
    "equal": [layer.num_equal for layer in model.layers],
    "trained": [bool((value < 0.5).all()) for value in gathered.values()],
}
Path(sys.argv[2], f"{world.rank}.json").write_text(json.dumps(facts))
engine.close()
world.close()
