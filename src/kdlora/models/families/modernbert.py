"""ModernBERT (Warner et al. 2024): pre-norm, gated, rotary positions; it has no fused pass."""

from __future__ import annotations

from kdlora.models.families.family import Family

FAMILY = Family(("modernbert",), ("attn.Wqkv",), gated=True, position_table=False)
