"""Hook of `make docs-site`: links to files of the clone that are no pages become plain text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#:\s]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return a page's text with links that leave `docs/` taken out."""
    folder = (DOCS / page.file.src_path).parent

    def shown(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        return link[0] if target.is_relative_to(DOCS) and target.suffix != ".py" else link[1]

    return _LINK.sub(shown, markdown)
