"""What was kept of an encoder's vocabulary, and what that does to texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from kdlora.json_files import read_json_object

KEPT_FACTS = "vocabulary.json"  # in the folder of a cut encoder: how it was made and measured


@dataclass(frozen=True)
class Cut:
    """A trimmed encoder: what was kept of it, and what that does to texts not counted.

    Attributes:
        keep: share of all tokens of the counted texts that had to be covered.
        held_out_texts: texts of the corpus that were not counted.
        held_out_changed: share of them that hold a token which was cut.
        held_out_growth: their tokens after, as a share of those before; 1.02 is 2 % more.
        checked_texts: texts without a cut token whose tokens and hidden states were compared.
    """

    source: str
    keep: float
    counted_texts: int
    held_out_texts: int
    held_out_changed: float
    held_out_growth: float
    tokens_before: int
    tokens_after: int
    parameters_before: int
    parameters_after: int
    size_before_mb: float
    size_after_mb: float
    checked_texts: int


_CUT: TypeAdapter[Cut] = TypeAdapter(Cut)


def read_cut(folder: Path) -> Cut | None:
    """What was cut of the encoder of a folder; None where nothing was, or nobody wrote it down."""
    try:
        return _CUT.validate_python(read_json_object(folder / KEPT_FACTS))
    except (OSError, ValueError):
        return None
