"""What the loop remembers, and its checkpoint: an interrupted run goes on as if undisturbed."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdlora.files import CHECKPOINT, leftovers, set_aside, whole_file
from kdlora.records.contents import HISTORY
from kdlora.training.precision import Compute


@dataclass
class Progress:
    """Everything the loop must remember beside weights; goes into the checkpoint."""

    step: int = 0
    best_step: int = 0
    best_score: float | None = None
    evals_without_gain: int = 0
    evals: int = 0
    micro_batch_size: int = 0
    out_of_memory_retries: int = 0
    nonfinite_steps: int = 0
    nonfinite_row: int = 0
    examples: int = 0
    tokens: int = 0
    flops: float = 0.0
    train_s: float = 0.0
    eval_s: float = 0.0
    loss_sum: float = 0.0
    loss_steps: int = 0
    resumed: int = 0
    stopped: str = "completed"
    unit: str = ""  # of the labels; before there was one, regressions had their own
    history: list[dict[str, Any]] = field(default_factory=list)


class Paused(Exception):
    """No error: training reached the step at which it was to pause, and a checkpoint is written."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(f"paused at step {progress.step}")
        self.progress = progress


def save_checkpoint(
    folder: Path,
    progress: Progress,
    trained: dict[str, nn.Parameter],
    best: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    extra: dict[str, Any] | None,
) -> None:
    """Write everything that the next step depends on, atomically; `extra` is the adapter's own.

    torch writes a zip file, which holds a checksum of each of its members.
    """
    state = {
        "progress": json.dumps(asdict(progress)),
        "weights": {n: p.detach() for n, p in trained.items()},
        "best": best,
        "optimizer": optimizer.state_dict(),
        "extra": extra,
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }
    with whole_file(folder / CHECKPOINT) as temporary:
        torch.save(state, temporary)


def load_checkpoint(folder: Path, compute: Compute, *, unit: str = "") -> dict[str, Any] | None:
    """The state that `save_checkpoint` wrote, or None.

    A torn or damaged one is set aside, not deleted; so is one of labels in another `unit`, whose
    weights answer something else. What processes left that were killed while they wrote is removed:
    whoever loads holds the run.
    """
    path = folder / CHECKPOINT
    for torn in (*leftovers(path), *leftovers(folder / HISTORY)):
        torn.unlink(missing_ok=True)
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as members:  # torch.load compares no checksum
            torn_member = members.testzip()
        state = torch.load(path, map_location=compute.device, weights_only=True)
        usable = torn_member is None and json.loads(state["progress"]).get("unit", "") == unit
    except Exception:  # torn by a crash: start again, keep the evidence
        usable = False
    if not usable:
        set_aside(path)
        return None
    return state


def restore(
    state: dict[str, Any], trained: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> tuple[Progress, dict[str, torch.Tensor]]:
    """Put weights, optimizer and random state back; returns the progress and the best weights."""
    with torch.no_grad():
        for name, value in state["weights"].items():
            trained[name].copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"].cpu())
    if state["cuda_rng"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda_rng"].cpu())
    progress = Progress(**json.loads(state["progress"]))
    progress.resumed += 1
    return progress, dict(state["best"])


def write_history(folder: Path, progress: Progress) -> None:
    """Replace `history.jsonl`: one line an evaluation of the selection split."""
    text = "".join(json.dumps(row) + "\n" for row in progress.history)
    with whole_file(folder / HISTORY) as temporary:
        temporary.write_text(text, "utf-8")
