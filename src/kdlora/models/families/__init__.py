"""The encoder families, one file each: all that differs from one to another.

An unknown family works too where nothing of this is asked: heads, poolers, token types and
attention back ends are found on the model or its config (`models.inspection`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdlora.models.families import (
    albert,
    bert,
    deberta,
    distilbert,
    electra,
    modernbert,
    mpnet,
    roberta,
)
from kdlora.models.families.family import (
    DistanceTable,
    Family,
    Layer,
    Parts,
    PreNormLayer,
    Rotary,
)

__all__ = [
    "FAMILIES",
    "DistanceTable",
    "Family",
    "Layer",
    "Parts",
    "PreNormLayer",
    "Rotary",
    "longest_text",
    "take_apart",
]

# model_type -> family
FAMILIES: dict[str, Family] = {
    model_type: module.FAMILY
    for module in (bert, electra, roberta, distilbert, deberta, albert, mpnet, modernbert)
    for model_type in module.FAMILY.model_types
}


def take_apart(model: Any) -> Parts | None:
    """The parts of a sequence classifier, or None where there is no fused pass for it."""
    family = FAMILIES.get(model.config.model_type)
    if family is None or family.parts is None or getattr(model.config, "is_decoder", False):
        return None
    return family.parts(model)


def longest_text(config: Mapping[str, Any]) -> int | None:
    """The longest text in tokens, special ones included, by what is in an encoder's config.json.

    None where positions set no limit, or where the config says nothing of them.
    """
    length = config.get("max_position_embeddings")
    if length is None or config.get("position_biased_input", True) is False:
        return None
    family = FAMILIES.get(config.get("model_type", ""))
    first = family.first_position if family else 0
    return int(length) - ((config.get("pad_token_id") or 0) + 1 if first is None else first)
