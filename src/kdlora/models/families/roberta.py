"""RoBERTa (Liu et al. 2019), DistilRoBERTa, XLM-RoBERTa (Conneau et al. 2020) and CamemBERT."""

from __future__ import annotations

from typing import Any

from kdlora.models.families import bert
from kdlora.models.families.family import Family, Parts, layers_of


def _parts(model: Any) -> Parts:
    base = model.base_model
    layers = layers_of(bert.layer, base.encoder.layer)
    return Parts(base.embeddings, None, layers, model.classifier)


FAMILY = Family(
    ("roberta", "xlm-roberta", "camembert"), bert.PROJECTIONS, first_position=None, parts=_parts
)
