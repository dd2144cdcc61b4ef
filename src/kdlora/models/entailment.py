"""A classifier of entailment: which of its outputs says that one text follows from another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdlora.errors import ModelError


def entailment_output(names: Sequence[str], *, where: str) -> int:
    """The place of the output called entailment, whatever its capitals ("ENTAILMENT", "entail").

    Raises ModelError with the names that there are.
    """
    found = [i for i, name in enumerate(names) if name.strip().casefold().startswith("entail")]
    if len(found) == 1:
        return found[0]
    shown = ", ".join(names) or "not named"
    raise ModelError(
        f"{where}: a zero-shot teacher needs one output called entailment, but its outputs are "
        f"{shown}. Give a model that was fine-tuned on natural language inference (such as MNLI); "
        "if it was, name its outputs in id2label of its config.json"
    )


def names_in(config: Mapping[str, Any]) -> list[str]:
    """The names of a classifier's outputs in their order, by what is in its config.json."""
    labels = config.get("id2label")
    if not isinstance(labels, Mapping):
        return []
    return [str(labels[key]) for key in sorted(labels, key=lambda key: int(key))]
