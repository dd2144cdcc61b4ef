"""DeBERTa v2 and v3 (He et al. 2021): disentangled attention, for which there is no fused pass."""

from __future__ import annotations

from kdlora.models.families.family import Family

FAMILY = Family(
    ("deberta-v2",),
    ("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
    pooler=True,
)
