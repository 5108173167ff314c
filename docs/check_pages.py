"""README and the pages stay short and plain: `python docs/check_pages.py`, a part of `make check`.

README has at most 180 lines. No page has a sentence of more than 30 words outside tables and code.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

MOST_LINES, MOST_WORDS = 180, 30
ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = (README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))


def problems(text: str, most_lines: int | None = None) -> list[str]:
    """Return what is too long, a sentence each."""
    found = []
    if most_lines is not None and (count := len(text.splitlines())) > most_lines:
        found.append(f"{count} lines; at most {most_lines} are allowed")
    for sentence in sentences(text):
        if (count := len(sentence.split())) > MOST_WORDS:
            found.append(f"{count} words, more than {MOST_WORDS}: {sentence}")
    return found


def sentences(text: str) -> list[str]:
    """Return the sentences of prose and lists, without code, tables and headings."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    kept = [line for line in text.splitlines() if not line.startswith(("|", "#"))]
    blocks = re.split(r"\n\s*\n|\n(?=[-*] )", "\n".join(kept))
    joined = [" ".join(block.split()) for block in blocks]
    return [part for block in joined for part in re.split(r"(?<=[.:;?!])\s+", block) if part]


def main() -> None:
    """Print every problem; the status is 1 if there is one."""
    found = [
        f"{page.relative_to(ROOT)}: {problem}"
        for page in PAGES
        for problem in problems(page.read_text(), MOST_LINES if page == README else None)
    ]
    print("\n".join(found), end="\n" if found else "")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
