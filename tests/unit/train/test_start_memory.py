"""What a run asks of the allocator before it builds a model."""

import platform
import subprocess
import sys

import pytest

_MAPPED = """
import ctypes, sys, torch
from lope_dist.config.load import validate_config
from lope_dist.train import session

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "a s h n mapped u f o r k".split()]

info = ctypes.CDLL(None).mallinfo2
info.restype = Info

def look(config):
    torch.ones(1 << 20)  # glibc would learn from it that such blocks come again
    before = info().mapped
    block = torch.ones(1 << 20)
    print(info().mapped - before)
    sys.exit()

session.preflight = look
tree = {"output_dir": "unused", "model": {"name_or_path": "unused"}, "data": {"path": "unused"}}
session.train(validate_config(tree | {"engine": eval(sys.argv[1])}, "test"))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no mallopt")
@pytest.mark.parametrize(
    ("engine", "is_mapped"),
    [("{'kind': 'local'}", False), ("{'zero_stage': 2}", False), ("{'zero_stage': 3}", True)],
)
def test_where_ranks_gather_large_blocks_are_given_back_before_a_model_is_built(
    engine: str, is_mapped: bool
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MAPPED, engine], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    num_bytes = int(done.stdout.split()[-1])
    assert num_bytes >= 4 << 20 if is_mapped else num_bytes == 0
