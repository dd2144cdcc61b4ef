"""The encoder families, one file each: all that differs from one to another.

An unknown family works too where nothing of this is asked: heads, poolers, token types and
attention back ends are found on the model or its config (`models.inspection`).
"""

from __future__ import annotations

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
from kdlora.models.families.family import Family, Layer, Parts

__all__ = ["FAMILIES", "Family", "Layer", "Parts", "take_apart"]

# model_type -> family
FAMILIES: dict[str, Family] = {
    model_type: module.FAMILY
    for module in (bert, electra, roberta, distilbert, deberta, albert, mpnet, modernbert)
    for model_type in module.FAMILY.model_types
}


def take_apart(model: Any) -> Parts | None:
    """The parts of a sequence classifier, or None where its family has no fused pass."""
    family = FAMILIES.get(model.config.model_type)
    if family is None or family.parts is None or getattr(model.config, "is_decoder", False):
        return None
    return family.parts(model)
