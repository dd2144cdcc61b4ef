"""What a benchmark found, on disk: every number as JSON, and the page made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FIGURES = "README.md"  # the page of all figures, where there is one


def write_results(folder: Path, name: str, found: dict[str, Any], page: str | None = None) -> str:
    """Write `name.json` and, if there is a page, `name.md`; returns the JSON as it was written.

    The page of all figures follows, where there is one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=2)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    if page is not None:
        (folder / f"{name}.md").write_text(page, encoding="utf-8")
    for place in (folder, folder.parent):  # a kind of processor may have a folder of its own
        if (place / FIGURES).is_file() and (place / "speed.json").is_file():
            from benchmarks import figures  # which reads what the others write

            figures.write(place)
    return text


class OtherMachine(Exception):
    """Numbers of two processors must not stand in one file."""


def expect_same_machine(folder: Path, name: str, about: dict[str, Any]) -> None:
    """Raise OtherMachine if `name.json` was measured with other instructions than `about` has.

    Ask before measuring: an hour is lost otherwise.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    for part in [found, *found.get("measures", [])]:
        theirs = part.get("machine", about)["instructions"]
        if theirs != about["instructions"]:
            ours = about["instructions"]
            elsewhere = folder / (ours[0] if ours else "plain")
            raise OtherMachine(
                f"{path} holds numbers of a processor with {', '.join(theirs) or 'none of these'}; "
                f"this one has {', '.join(ours) or 'none'}: give another folder, "
                f"--out {elsewhere}"
            )
