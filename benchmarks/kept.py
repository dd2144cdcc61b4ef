"""What a benchmark found, on disk: every number as JSON, and the page made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def keep(folder: Path, name: str, found: dict[str, Any], page: str | None = None) -> str:
    """Write `name.json` and, if there is a page, `name.md`; returns the JSON as it was written."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=2)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    if page is not None:
        (folder / f"{name}.md").write_text(page, encoding="utf-8")
    return text
