"""README stays short and plain: `python docs/check_readme.py`, a part of `make check`.

At most 180 lines, and no sentence of more than 30 words outside tables and code.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

MOST_LINES, MOST_WORDS = 180, 30
README = Path(__file__).resolve().parents[1] / "README.md"


def problems(text: str) -> list[str]:
    """Return what is too long, a sentence each."""
    found = []
    if (count := len(text.splitlines())) > MOST_LINES:
        found.append(f"{count} lines; at most {MOST_LINES} are allowed")
    for sentence in sentences(text):
        if (count := len(sentence.split())) > MOST_WORDS:
            found.append(f"{count} words, more than {MOST_WORDS}: {sentence}")
    return found


def sentences(text: str) -> list[str]:
    """Return the sentences of prose and lists; code, tables and headings are none."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    kept = [line for line in text.splitlines() if not line.startswith(("|", "#"))]
    blocks = re.split(r"\n\s*\n|\n(?=- )", "\n".join(kept))
    joined = [" ".join(block.split()) for block in blocks]
    return [part for block in joined for part in re.split(r"(?<=[.:;?!])\s+", block) if part]


if __name__ == "__main__":
    told = problems(README.read_text())
    print("\n".join(f"README.md: {line}" for line in told), end="\n" if told else "")
    sys.exit(bool(told))
