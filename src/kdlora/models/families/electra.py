"""ELECTRA (Clark et al. 2020): BERT's layers behind embeddings that may be narrower."""

from __future__ import annotations

from typing import Any

from kdlora.models.families import bert
from kdlora.models.families.family import Family, Parts, layers_of


def _parts(model: Any) -> Parts:
    base = model.electra
    return Parts(
        base.embeddings,
        getattr(base, "embeddings_project", None),
        layers_of(bert.layer, base.encoder.layer),
        model.classifier,
    )


FAMILY = Family(("electra",), bert.PROJECTIONS, parts=_parts, narrow_embeddings=True)
