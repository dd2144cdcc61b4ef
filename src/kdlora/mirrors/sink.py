"""What a tracker of experiments has to be able to do for records to be mirrored to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kdlora.mirrors.entries import Entry


@dataclass(frozen=True)
class Entered:
    """An entry as a tracker has it; `key` is its name there, `checksum` None where it is torn."""

    key: str
    checksum: str | None


class Sink(Protocol):
    """One study's place in a tracker, open."""

    @property
    def location(self) -> str:
        """Where the records are, as the user finds them: a part of a sentence."""

    def known(self, run_id: str | None = None) -> dict[str, list[Entered]]:
        """What is there of one run or of all, by kdlora's run id."""

    def enter(self, entry: Entry, files: Sequence[Path]) -> None:
        """Enter a record; what is there in part only is told by `known` as torn."""

    def remove(self, old: Entered) -> None:
        """Take an entry that another replaces out of sight."""
