"""Compile what the adapter's kernels would launch, for a GPU that need not be there.

Run: TRITON_INTERPRET=0 python compile_kernels.py [--few] CAPABILITY...  (90: Hopper, 80: Ampere)
`--few`: of one type and size.
Prints a JSON line a kernel: its name, constants and what ptxas made of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lope_dist.adapters.kernels import launching, masked, projection, routing
from lope_dist.config.adapter import CompensationConfig

_TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    float: "fp32",
    int: "i32",
}
Launch = tuple[Any, tuple[Any, ...], dict[str, Any]]


def launches(*, few: bool) -> Iterator[Launch]:
    """Yield kernel, arguments and constants of each launch, of several types and sizes or one."""
    found: list[Launch] = []
    launching.launch = lambda kernel, _, *args, **constants: found.append((kernel, args, constants))
    every, both = ((True, True), (False, True), (True, False)), ((True, True),)
    sizes = (
        (torch.bfloat16, 4, 4, 4096, every),
        (torch.float32, 4, 4, 576, both),
        (torch.float16, 5, 3, 900, both),
        (torch.bfloat16, 64, 8, 4096, both),
    )
    for dtype, R, E, D, needs in sizes[: 1 if few else None]:
        x, A = torch.empty(40, D, dtype=dtype), torch.empty(R, D)
        keys, grad = torch.empty(40, dtype=torch.int32), torch.empty(40, R, dtype=dtype)
        projection.project(x, A, keys, 1, 0.1)
        for needs_x, needs_A in needs:
            projection.project_backward(grad, x, A, keys, 1, 0.1, needs_x=needs_x, needs_A=needs_A)
        h, router = torch.empty(40, R, dtype=dtype), torch.empty(E, R)
        leaf = h.clone().requires_grad_()
        routing.route(leaf, router, dtype)[1].sum().backward()
        grams = torch.empty(E * R, E * R)
        masked.route_masked(
            h, router, E - 1, grams, False, CompensationConfig(mode="conserve"), dtype
        )
        if needs is both:
            continue
        unit = CompensationConfig(mode="unit", top_k=1)
        masked.route_masked(h, router, E - 2, grams, True, unit, dtype)
    yield from found


def compiled(launch: Launch, capability: int) -> dict[str, Any]:
    """Return what became of one launch."""
    kernel, arguments, constants = launch
    constants = dict(constants)
    options = {"num_warps": constants.pop("num_warps", 4)}
    given = dict(zip(kernel.arg_names, arguments, strict=False))
    signature = {
        name: "constexpr"
        if name in constants
        else _TYPES[
            given[name].dtype if isinstance(given[name], torch.Tensor) else type(given[name])
        ]
        for name in kernel.arg_names
    }
    index = {name: (i,) for i, name in enumerate(kernel.arg_names)}
    aligned = {index[n]: [["tt.divisibility", 16]] for n, t in signature.items() if t[0] == "*"}
    source = ASTSource(
        kernel, signature, {index[name]: value for name, value in constants.items()}, aligned
    )
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    name = f"{kernel.__module__.rpartition('.')[2]}.{kernel.__name__}"
    sizes = {"cubin_bytes": len(made.asm["cubin"]), "shared_bytes": made.metadata.shared}
    return {"kernel": name, "constants": constants, "signature": signature, **sizes}


def main() -> None:
    """Compile all, for each capability named."""
    few, *capabilities = "--few" in sys.argv, *(word for word in sys.argv[1:] if word != "--few")
    for capability in map(int, capabilities):
        for launch in launches(few=few):
            print(json.dumps(compiled(launch, capability)), flush=True)


if __name__ == "__main__":
    main()
