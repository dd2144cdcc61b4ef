"""Public facts that expose impossible results: class counts of GLUE splits, shapes of encoders.

The counts are those of the official validation splits (Wang et al. 2019); a table of results
seldom says how many rows it was scored on, but a score that equals a class's share to the last
digit needs no other explanation than a model that always says the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdlora.vocabulary.adapter_size import layer_parameters
from kdlora.vocabulary.arm import PEFT_VARIANTS

# task -> rows of each class on the official validation split (MNLI: the matched one)
CLASS_COUNTS: dict[str, tuple[int, ...]] = {
    "cola": (322, 721),
    "sst2": (428, 444),
    "mrpc": (129, 279),
    "qqp": (25545, 14885),
    "mnli": (3479, 3123, 3213),
    "mnli-mismatched": (3463, 3129, 3240),
    "qnli": (2702, 2761),
    "rte": (146, 131),
    "wnli": (40, 31),
}


@dataclass(frozen=True)
class Shape:
    """layers x hidden, and whether the head carries a dense layer [hidden, hidden] of its own."""

    layers: int
    hidden: int
    dense_head: bool

    def block_parameters(self) -> int:
        """Weights of the transformer blocks, 12 hidden² a layer (feed-forward width 4 hidden)."""
        return 12 * self.layers * self.hidden**2

    def head(self, outputs: int) -> int:
        """Parameters of the classification head that PEFT trains in full."""
        dense = self.hidden**2 + self.hidden if self.dense_head else 0
        return dense + outputs * (self.hidden + 1)

    def query_value(self, rank: float) -> float:
        """LoRA on query and value: layers * 2 * r * 2 hidden (Hu et al. 2022)."""
        return self.layers * 2 * rank * 2 * self.hidden

    def all_linear(self, rank: float) -> float:
        """LoRA on the six linear layers of every block: r (in + out) each."""
        return self.layers * rank * (4 * 2 * self.hidden + 2 * 5 * self.hidden)


_BASE, _SIX = (12, 768), (6, 768)
SHAPES: dict[str, Shape] = {
    "bert-base-uncased": Shape(*_BASE, dense_head=False),
    "bert-base": Shape(*_BASE, dense_head=False),
    "roberta-base": Shape(*_BASE, dense_head=True),
    "deberta-v3-base": Shape(*_BASE, dense_head=False),
    "distilbert-base-uncased": Shape(*_SIX, dense_head=True),
    "distilbert-base": Shape(*_SIX, dense_head=True),
    "distilroberta-base": Shape(*_SIX, dense_head=True),
    "deberta-v3-small": Shape(*_SIX, dense_head=False),
}


def shape_of(encoder: object) -> Shape | None:
    """The shape of an encoder by its public name (`owner/name` too), if it is known."""
    return SHAPES.get(str(encoder).rpartition("/")[2].lower())


def adapter_parameters(shape: Shape, adaptation: str, rank: float) -> int | None:
    """Adapter parameters of a variant on query and value, None for variants not known here.

    The rank of AdaLoRA is its *initial* one.
    """
    if adaptation not in PEFT_VARIANTS:
        return None
    rank, hidden = int(rank), shape.hidden
    modules = 2 * shape.layers
    return modules * layer_parameters(adaptation, rank, hidden, hidden, {"init_r": rank})


def outputs_of(task: object) -> int | None:
    """Outputs of the head for a known task."""
    name = str(task)
    if name == "stsb":
        return 1
    return len(CLASS_COUNTS[name]) if name in CLASS_COUNTS else None
