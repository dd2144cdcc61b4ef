"""What a run leaves before its record is written, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from kdlora.data.examples import TaskData
from kdlora.distillation.soft_labels import SoftLabels
from kdlora.records.record import Efficiency, TrainingFacts
from kdlora.training.precision import Compute


@dataclass
class RunOutcome:
    """What any kind of run leaves: outputs [n, c] by held-out split, facts and costs.

    `scored` are the rows that the outputs belong to.
    """

    scored: TaskData
    outputs: dict[str, np.ndarray]
    facts: TrainingFacts
    efficiency: Efficiency
    soft: SoftLabels | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


def compute_facts(compute: Compute, model: nn.Module) -> dict[str, Any]:
    """How the model was computed; attention is what the family really offered."""
    return {
        "precision": compute.name,
        "precision_reason": compute.reason,
        "attention": getattr(model.config, "_attn_implementation", compute.attention),
        "device": str(compute.device),
    }


def folder_mb(folder: Path) -> float:
    """Size of all files below a folder; MB = 10^6 bytes."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6
