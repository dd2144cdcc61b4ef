"""The package's page on an index: the README, with links that do not need the checkout around it.

All else stands in pyproject.toml. Where its [project.urls] name a Source, links lead there, to the
tag of this version; until the project has a public address they name files of the source
distribution.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
# [text](path) and ![text](path), but for addresses and places in the page itself
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|mailto:|#)([^)\s]+)\)")
ELSEWHERE = "Files that are named here, such as docs/index.md, are in the source distribution."


def description(readme: str, version: str, source: str | None = None) -> str:
    """The README as a package index can show it; `source` is the address of the repository."""
    if source is None:
        title, rest = readme.split("\n", 1)
        return f"{title}\n\n{ELSEWHERE}\n{LINK.sub(_named, rest)}"
    return LINK.sub(lambda found: _absolute(found, source.rstrip("/"), version), readme)


def _named(found: re.Match[str]) -> str:
    picture, text, path = found.groups()
    if picture:
        return ""
    return path if text == path else f"{text} ({path})"


def _absolute(found: re.Match[str], source: str, version: str) -> str:
    picture, text, path = found.groups()
    return f"{picture}[{text}]({source}/{'raw' if picture else 'blob'}/v{version}/{path})"


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    setup(
        long_description=description(
            (ROOT / "README.md").read_text(encoding="utf-8"),
            project["version"],
            project.get("urls", {}).get("Source"),
        ),
        long_description_content_type="text/markdown",
    )
