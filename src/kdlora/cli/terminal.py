"""What a person reads on a terminal: nothing that a file holds is markup, or obeyed.

Every command shows its words through `terminal`, `say`, `say_json` and `say_data`: the places for
strangers' texts need no care of their own. ``[red]`` may be somebody's arm.
"""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from kdlora.visible import visible


class _Console(Console):
    def render_str(self, text: str, **options: Any) -> Text:
        """Strings, before their width is measured."""
        return super().render_str(visible(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Whatever else holds text."""
        for piece in super().render(renderable, options):
            yield piece if piece.control else piece._replace(text=visible(piece.text))


def terminal(*, stderr: bool = False) -> Console:
    """Where tables and sentences are printed: brackets, colons and control characters are text."""
    return _Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def say(text: str = "", *, stderr: bool = False, flush: bool = False) -> None:
    """Print a line that is never wrapped."""
    print(visible(text), file=sys.stderr if stderr else sys.stdout, flush=flush)


def say_json(value: Any, *, indent: int | None = 1) -> None:
    """Print a value as JSON for a script, as it is and harmless."""
    readable = codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"
    say(json.dumps(value, indent=indent, ensure_ascii=not readable))


def say_data(line: str) -> None:
    """Print a line of data, which goes unchanged into a file or a pipe."""
    print(visible(line) if sys.stdout.isatty() else line)
