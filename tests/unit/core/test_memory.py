from __future__ import annotations

import pytest

from lope_dist.core.errors import LopeError
from lope_dist.core.memory import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("80GiB", 80 * 2**30),
        ("24GB", 24 * 10**9),
        ("24 gb", 24 * 10**9),
        ("1.5TiB", 3 * 2**39),
        ("1TB", 10**12),
        ("24", 24 * 2**30),
        ("512 B", 512),
        ("3KiB", 3072),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text, "--gpu-memory") == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "80Gb/s", "80G", "-1GiB", "0GiB", "nan", "80 gibibytes"]
)
def test_what_is_no_size_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(LopeError, match=r"^--gpu-memory: .*80GiB, 24GB or 1\.5TiB\.$"):
        parse_bytes(text, "--gpu-memory")


def test_sizes_are_shown_in_the_unit_that_they_reach() -> None:
    assert [format_bytes(n) for n in (0, 1023, 1024, 3 << 29, 5 << 40, 5 << 50)] == [
        "0 B",
        "1023 B",
        "1.00 KiB",
        "1.50 GiB",
        "5.00 TiB",
        "5120.00 TiB",
    ]
