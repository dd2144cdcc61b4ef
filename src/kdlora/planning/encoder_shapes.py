"""Sizes and FLOPs of an encoder in closed form, from its config alone and without torch.

A forward pass over one text of s tokens costs two FLOPs a weight of every linear layer and token,
and 4 s^2 d a layer for attention (Kaplan et al. 2020, "Scaling laws for neural language models").
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from kdlora.data.encoder_files import encoder_file
from kdlora.json_files import read_json_object
from kdlora.models.families import FAMILIES, Family
from kdlora.spec.adapter import Adapter
from kdlora.spec.run import EncoderRef
from kdlora.vocabulary.adapter_size import layer_parameters


@dataclass(frozen=True)
class EncoderShape:
    """The numbers that decide what an encoder costs.

    `stored` is how many layers' weights there are, fewer than `layers` where they are shared.
    """

    layers: int
    width: int
    inner: int
    heads: int
    vocabulary: int
    positions: int = 512
    types: int = 2
    embedding: int = 0  # width of the embeddings; 0: that of the layers
    stored: int = 0
    gated: bool = False  # the first inner matrix is doubled
    pooler: bool = True

    @cached_property
    def linear_layers(self) -> list[tuple[int, int]]:
        """Inputs and outputs of one layer's matrices."""
        inner = self.inner * (2 if self.gated else 1)
        return [(self.width, self.width)] * 4 + [(self.width, inner), (self.inner, self.width)]

    @cached_property
    def token_flops(self) -> float:
        """Linear layers' FLOPs for one token."""
        return 2.0 * self.layers * sum(a * b for a, b in self.linear_layers)

    def forward_flops(self, tokens: float, outputs: int = 2) -> float:
        """One forward pass over one text of so many tokens, its head included."""
        attention = 4.0 * self.layers * tokens**2 * self.width
        pooled = self.width**2 if self.pooler else 0
        return tokens * self.token_flops + attention + 2.0 * (pooled + self.width * outputs)

    @cached_property
    def params(self) -> int:
        """Weights without the head."""
        embedding = self.embedding or self.width
        tables = (self.vocabulary + self.positions + self.types) * embedding + 2 * embedding
        if embedding != self.width:
            tables += embedding * self.width + self.width
        layer = sum(a * b + b for a, b in self.linear_layers) + 4 * self.width
        pooled = self.width**2 + self.width if self.pooler else 0
        return tables + (self.stored or self.layers) * layer + pooled

    def adapter_params(self, adaptation: str, adapter: Adapter) -> int:
        """Weights of an adapter of one of kdlora's variants."""
        if adapter.budget is not None:
            return adapter.budget
        rank, options = adapter.rank or 8, adapter.options
        layer = sum(
            layer_parameters(adaptation, rank, inputs, outputs, options)
            for inputs, outputs in self._adapted(adapter.targets)
        )
        return layer * (self.stored or self.layers)

    def _adapted(self, targets: tuple[str, ...]) -> list[tuple[int, int]]:
        if "all-linear" in targets:
            return self.linear_layers
        if "query-value" in targets:
            return [(self.width, self.width)] * 2
        return [(self.width, self.width)] * len(targets)  # by name: as if all were square


_UNKNOWN = Family((), ())  # of which nothing is known but its config
_LARGEST_SIZE = 1 << 24  # layers, widths or words that no encoder has
_BERT = EncoderShape(layers=12, width=768, inner=3072, heads=12, vocabulary=30522)
_SMALL = replace(_BERT, layers=6, types=0, pooler=False)

# Encoders that studies name most, for where no config is at hand.
_KNOWN: dict[str, EncoderShape] = {
    "minilm-l6": replace(_BERT, layers=6, width=384, inner=1536),
    "minilm-l3": replace(_BERT, layers=3, width=384, inner=1536),
    "mpnet-base": replace(_BERT, vocabulary=30527, positions=514, types=0, pooler=False),
    "bert-base-uncased": _BERT,
    "bert-base-cased": replace(_BERT, vocabulary=28996),
    "bert-large-uncased": replace(_BERT, layers=24, width=1024, inner=4096, heads=16),
    "distilbert-base-uncased": _SMALL,
    "distilbert-base-cased": replace(_SMALL, vocabulary=28996),
    "roberta-base": replace(_BERT, vocabulary=50265, positions=514, types=1, pooler=False),
    "distilroberta-base": replace(
        _BERT, layers=6, vocabulary=50265, positions=514, types=1, pooler=False
    ),
    "roberta-large": replace(
        _BERT, layers=24, width=1024, inner=4096, heads=16, vocabulary=50265, positions=514,
        types=1, pooler=False,
    ),
    "deberta-v3-small": replace(_BERT, layers=6, vocabulary=128100, types=0),
    "deberta-v3-base": replace(_BERT, vocabulary=128100, types=0),
    "albert-base-v2": replace(_BERT, vocabulary=30000, embedding=128, stored=1),
}  # fmt: skip


def shape_of(encoder: EncoderRef) -> tuple[EncoderShape, bool]:
    """An encoder's shape, and whether it is known; where it is not, BERT-base stands in."""
    found = _shape(encoder)
    shape = found or _BERT
    if encoder.layers is not None:
        shape = replace(shape, layers=len(encoder.layers), stored=min(shape.stored, 1))
    return shape, found is not None


def _shape(encoder: EncoderRef) -> EncoderShape | None:
    # a packaged encoder has the same shape whether it is fetched yet or not
    file = None if encoder.source == "package" else encoder_file(encoder, "config.json")
    if file is not None:
        with contextlib.suppress(OSError):
            stat = file.stat()
            if shape := _read_config(file, stat.st_size, stat.st_mtime_ns):
                return shape
    return None if encoder.path else _KNOWN.get(encoder.name.rpartition("/")[2].lower())


@lru_cache(maxsize=512)
def _read_config(file: Path, size: int, mtime_ns: int) -> EncoderShape | None:
    """The shape that a config tells, if it does; remembered while the file stays the same."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return _usable(_from_config(read_json_object(file)))
    return None


def _usable(shape: EncoderShape) -> EncoderShape:
    """The shape itself. Raises ValueError where a stranger's config says what no encoder can be."""
    for name, value in vars(shape).items():
        least = 1 if name in ("layers", "width", "inner", "heads", "vocabulary") else 0
        if not isinstance(value, int) or not least <= value <= _LARGEST_SIZE:
            raise ValueError(f"{name} is {value!r}")
    return shape


def _from_config(config: dict[str, Any]) -> EncoderShape:
    def first(*names: str, default: Any = None) -> Any:
        values = [config[n] for n in names if config.get(n) is not None]
        if not values and default is None:
            raise KeyError(names[0])
        return values[0] if values else default

    family = FAMILIES.get(config.get("model_type", ""), _UNKNOWN)
    width = first("hidden_size", "dim")
    positioned = family.position_table and config.get("position_biased_input", True)
    return EncoderShape(
        layers=first("num_hidden_layers", "n_layers"),
        width=width,
        inner=first("intermediate_size", "hidden_dim"),
        heads=first("num_attention_heads", "n_heads", default=12),
        vocabulary=first("vocab_size"),
        positions=first("max_position_embeddings", default=512) if positioned else 0,
        types=first("type_vocab_size", default=0),
        embedding=first("embedding_size", default=0) if family.narrow_embeddings else 0,
        stored=1 if family.shares_layers else 0,
        gated=family.gated,
        pooler=family.pooler,
    )
