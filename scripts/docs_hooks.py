"""What the documentation's site needs beyond the pages themselves; mkdocs.yml names this file.

Pages link to files of the repository that are no pages: on a site they are named, not linked.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, files: Any, **_: Any) -> str:
    """The page with links to what the site does not hold as plain text."""
    folder = posixpath.dirname(page.file.src_uri)

    def kept(match: re.Match[str]) -> str:
        text, target = match[1], match[2]
        if re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        index = posixpath.join(path, "README.md")
        if files.get_file_from_path(path) is not None:
            return match[0]
        if files.get_file_from_path(index) is not None:
            return f"[{text}]({posixpath.join(target, 'README.md')}{match[3] or ''})"
        is_folder = not posixpath.splitext(path)[1]
        return text if path.startswith("..") or is_folder else match[0]

    return _LINK.sub(kept, markdown)
