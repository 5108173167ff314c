"""Safetensors -> the model's parameters, each rank reading just what it keeps.

    file (flat tensor)   |-----------------------------------------|
    rank 1 of 3 keeps                  |-------------|
    widened to blocks of 64           |===============|   chunk by chunk: read, quantized,
                                                          cut to the span, written in place

The scales of NF4's double quantization share one offset, the mean over the whole tensor. So
ranks exchange a tensor's float32 scales (one for 64 weights), each computes the same bytes
of scales, keeps its part and lets the rest go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lope_dist.core.bars import counted
from lope_dist.core.console import tell
from lope_dist.model.checkpoint_files import TensorFiles
from lope_dist.model.finite import refuse_infinite
from lope_dist.model.inventory import Slot, take_inventory
from lope_dist.model.nf4 import NestedScales, quantize, quantize_scales
from lope_dist.model.nf4_layout import BLOCK, BLOCK_BYTES, PackedLayout
from lope_dist.model.origin import Origin, OriginReader
from lope_dist.model.placement import Placement
from lope_dist.model.prequantized import nested_scales

_WORKING_BYTES = 32
"""Bytes a weight at most: 4 read, 4 cast, about 20 of a quantizer, the result."""
_CPU_CHUNK = 1 << 17
"""Weights of a chunk on the CPU: what stays in the cache is quantized fastest."""
_DEVICE_CHUNK = 1 << 23
"""Weights of a chunk elsewhere: enough to hide the start of a transfer and a kernel."""


def load_weights(
    model: PreTrainedModel,
    files: TensorFiles,
    placement: Placement,
    dtype: torch.dtype,
    buffer_bytes: int,
    progress: bool,
) -> list[str]:
    """Fill a model built on the meta device; return what the files hold for parts it lacks.

    Collective: yes, where the placement shards.

    Args:
        model: Gets its parameters and has its buffers moved.
        files: Where the weights are.
        placement: What this rank keeps, and where.
        dtype: Of what is not quantized.
        buffer_bytes: What reading, casting and quantizing may take beside what is kept. The
            scales exchanged come on top: a few times 1/16 byte a weight of one tensor.
        progress: Whether to show a bar.

    Raises:
        LopeError: tensors that are missing, unexpected or of another shape, all listed; a weight
            that is NaN or infinite.
    """
    _compute_buffers(model)
    loader = _Loader(model, files, placement, buffer_bytes)
    inventory = take_inventory(model, files, dtype)
    if inventory.left_out and progress:
        parts = sorted({name.partition(".")[0] for name in inventory.left_out})
        tell(
            f"{type(model).__name__} leaves {len(inventory.left_out)} tensors of the files unread, "
            f"which belong to other parts of the model ({', '.join(parts)})."
        )
    if files.repeated and progress:
        tell(
            f"{len(files.repeated)} tensors stand in more than one file ({files.repeated[0]} for "
            "one); as in transformers, the last file's are read."
        )
    slots = loader.settled(inventory.slots)
    for slot in counted(slots, "Loading weights", "tensors", is_shown=progress):
        tensor = loader.load_buffer(slot) if slot.is_buffer else loader.load(slot)
        for module, attribute in slot.owners.values():
            setattr(module, attribute, tensor)
    for module in model.modules():
        for key, buffer in module.named_buffers(recurse=False):
            setattr(module, key, buffer.to(placement.device))
    return inventory.left_out


def _compute_buffers(model: PreTrainedModel) -> None:
    """Compute the buffers that no file holds.

    They are there since the model was built, but with the model's dtype as PyTorch's default; a
    table of sines differs then. transformers computes them anew after it has read the weights.
    """
    done = "_is_hf_initialized"  # transformers' mark of modules and tensors to leave alone
    for module in model.modules():
        setattr(module, done, False)
    for parameter in model.parameters():
        setattr(parameter, done, True)
    model.initialize_weights()


class _Loader:
    """Makes parameters, a chunk of weights at a time."""

    def __init__(
        self, model: PreTrainedModel, files: TensorFiles, placement: Placement, buffer_bytes: int
    ) -> None:
        self._model, self._files, self._placement = model, files, placement
        fastest = _CPU_CHUNK if placement.device.type == "cpu" else _DEVICE_CHUNK
        affordable = buffer_bytes // _WORKING_BYTES // BLOCK * BLOCK
        self._chunk = max(BLOCK, min(fastest, affordable))

    def settled(self, slots: list[Slot]) -> list[Slot]:
        """Return the slots, with one more for each rival of a tied parameter that differs from it.

        A model that ties its output projection to its embeddings may still be saved with both. As
        in `from_pretrained`, they are tied if the two are equal, and else are two parameters. Each
        rank compares the elements that it keeps.

        Collective: yes, where the placement shards and the files hold a tied parameter twice.
        """
        return [settled for slot in slots for settled in self._settle(slot)]

    def _settle(self, slot: Slot) -> Iterator[Slot]:
        owners = dict(slot.owners)
        for name, rival in slot.rivals.items():
            if not self._are_equal(slot.origin, rival):
                self._model.all_tied_weights_keys.pop(name, None)  # what saving leaves out
                yield replace(slot, origin=rival, owners={name: owners.pop(name)}, rivals={})
        yield replace(slot, owners=owners, rivals={})

    def _are_equal(self, origin: Origin, rival: Origin) -> bool:
        """Compare two parameters in the dtype that they are loaded in. Collective: see above."""
        dtype = origin.recipe.dtype
        readers = [self._reader(each) for each in (origin, rival)]
        is_equal = all(
            torch.equal(*(reader.read(a, b).to(dtype) for reader in readers))
            for a, b in _chunks(*self._placement.span(origin.numel), self._chunk)
        )
        agreement = torch.tensor([float(is_equal)], device=self._placement.device)
        num_ranks = len(self._placement.spans(origin.numel))
        spans = [(rank, rank + 1) for rank in range(num_ranks)]
        return bool(self._placement.whole(agreement, spans).all())

    def load(self, slot: Slot) -> nn.Parameter:
        """Return the slot's parameter, filled and placed."""
        if slot.packed is None:
            shape, dtype = torch.Size(slot.origin.shape), slot.origin.recipe.dtype
            part = self._placement.empty_part(shape.numel(), dtype)
            self._copy(self._reader(slot.origin), part, *self._placement.span(shape.numel()))
        else:
            layout = slot.packed.layout
            shape, dtype = torch.Size((layout.num_elements,)), layout.storage
            part = self._placement.empty_part(layout.num_elements, dtype)
            raw = part.view(torch.uint8)
            if slot.is_prequantized:
                nested = self._copy_packed(slot.origin.names[0], layout, raw)
            else:
                nested = self._quantize(self._reader(slot.origin), layout, raw)
            slot.packed.nested_scales = nested
        # A tensor of the right shape that takes the memory of one element.
        stand_in = torch.empty(1, dtype=dtype, device=self._placement.device).expand(shape)
        parameter = nn.Parameter(stand_in, requires_grad=False)
        self._placement.place(parameter, part, shape)
        return parameter

    def load_buffer(self, slot: Slot) -> Tensor:
        """Return the slot's buffer, whole on every rank."""
        shape = torch.Size(slot.origin.shape)
        reader = OriginReader(slot.origin, self._files, self._model, may_be_infinite=True)
        values = reader.read(0, shape.numel())
        return values.to(self._placement.device, slot.origin.recipe.dtype).view(shape)

    def _reader(self, origin: Origin) -> OriginReader:
        return OriginReader(origin, self._files, self._model)

    def _copy(self, source: OriginReader, part: Tensor, start: int, stop: int) -> None:
        """Cast elements [start, stop) of a parameter into ``part``."""
        for a, b in _chunks(start, stop, self._chunk):
            part[a - start : b - start].copy_(source.read(a, b))

    def _copy_packed(self, name: str, layout: PackedLayout, part: Tensor) -> NestedScales | None:
        """Copy this rank's bytes of a weight that is packed already into ``part``."""
        span = self._placement.span(layout.num_elements)
        done = 0
        for key, (start, stop) in (
            (name, layout.packed_range(*span)),
            (f"{name}.absmax", layout.scale_range(*span)),
        ):
            dtype = self._files.dtype(key)
            for a, b in _chunks(start, stop, self._chunk):
                raw = self._files.read_bytes(key, a, b)
                if key != name and dtype.is_floating_point:  # scales; weights are codes
                    refuse_infinite(raw.view(dtype), self._files, key, a // dtype.itemsize, dtype)
                part[done + a - start : done + b - start].copy_(raw)
            done += stop - start
        if not layout.nested:
            return None
        return nested_scales(name, self._files, self._placement.device)

    def _quantize(
        self, source: OriginReader, layout: PackedLayout, part: Tensor
    ) -> NestedScales | None:
        """Quantize this rank's part of a weight into ``part``.

        Collective: yes, where the placement shards.
        """
        device = self._placement.device
        span = self._placement.span(layout.num_elements)
        first, last = layout.block_range(*span)
        kept_first, kept_last = layout.packed_range(*span)
        absmax = torch.empty(last - first, dtype=torch.float32, device=device)
        for a, b in _chunks(first, last, self._chunk // BLOCK):
            weights = source.read(a * BLOCK, b * BLOCK).to(device, layout.storage)
            packed, absmax[a - first : b - first] = quantize(weights)
            start, stop = max(a * BLOCK_BYTES, kept_first), min(b * BLOCK_BYTES, kept_last)
            cut = packed[start - a * BLOCK_BYTES : stop - a * BLOCK_BYTES]
            part[start - kept_first : stop - kept_first].copy_(cut)
        spans = self._placement.spans(layout.num_elements)
        # A block on a border comes from both its ranks, equal.
        scales = self._placement.whole(absmax, [layout.block_range(*each) for each in spans])
        nested = None
        if layout.nested:
            scales, nested = quantize_scales(scales)
        start, stop = layout.scale_range(*span)
        offset = kept_last - kept_first
        part[offset : offset + stop - start].copy_(scales.view(torch.uint8)[start:stop])
        return nested


def _chunks(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield [start, stop) in pieces of at most ``size``."""
    for a in range(start, stop, size):
        yield a, min(a + size, stop)
