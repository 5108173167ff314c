"""What a run asks of the allocator before it builds a model."""

import json
import platform
import subprocess
import sys

import pytest

_MAPPED = """
import ctypes, json, os, sys, torch
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
    print(info().mapped - before, flush=True)
    sys.exit()

session.preflight = look
tree = {"output_dir": "unused", "model": {"name_or_path": "unused"}, "data": {"path": "unused"}}
for engine in json.loads(sys.argv[1]):
    if os.fork() == 0:  # what is asked lasts as long as a process
        session.train(validate_config(tree | {"engine": engine}, "test"))
    assert os.wait()[1] == 0
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no mallopt")
@pytest.mark.thorough
def test_where_ranks_gather_large_blocks_are_given_back_before_a_model_is_built() -> None:
    engines = [{"kind": "local"}, {"zero_stage": 2}, {"zero_stage": 3}]
    done = subprocess.run(
        [sys.executable, "-c", _MAPPED, json.dumps(engines)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    local, replicated, sharded = map(int, done.stdout.split()[-3:])
    assert local == replicated == 0
    assert sharded >= 4 << 20
