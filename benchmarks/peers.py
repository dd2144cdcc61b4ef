"""The same training as other people run it, written as their users would write it.

- `reports_recipe`: the recipe behind the reports: Trainer and peft, fp32, every text padded to 128
  tokens, the teacher's logits cached.
- `trainer_at_its_best`: Trainer with dynamic padding, batches grouped by length, fused AdamW, and
  bf16 where the hardware multiplies it (elsewhere torch emulates it, many times slower than fp32).
- `online_teacher`: distillation as most tools do it: the teacher runs in every step.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    BertTokenizerFast,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.workload import VOCABULARY, Workload, make_model, with_lora
from kdlora.training.precision import choose_compute

TEMPERATURE, KD_WEIGHT, MAX_LENGTH, BATCH = 2.0, 0.5, 128, 32


class _Clock(TrainerCallback):
    """Notes the end of every step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


class DistillingTrainer(Trainer):
    """The soft-label loss of Hinton et al. from cached logits, or from a teacher at hand."""

    teacher_model: nn.Module | None = None
    kd_weight = KD_WEIGHT

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        cached = inputs.pop("teacher")
        labels = inputs.pop("labels")
        logits = model(**inputs).logits
        if self.teacher_model is not None:
            with torch.no_grad():
                cached = self.teacher_model(**inputs).logits
        soft = F.kl_div(
            F.log_softmax(logits / TEMPERATURE, -1),
            F.softmax(cached / TEMPERATURE, -1),
            reduction="batchmean",
        )
        hard = F.cross_entropy(logits, labels)
        weight = self.kd_weight
        loss = (1 - weight) * hard + weight * TEMPERATURE**2 * soft
        # a dict: of a tensor the Trainer would take the first row for the loss
        return (loss, {"logits": logits}) if return_outputs else loss


def tokenizer() -> BertTokenizerFast:
    """One token a word `w123`; in training it only pads, since texts are token ids already."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate(words)}
    vocabulary |= {f"w{i}": i for i in range(len(words), VOCABULARY)}
    made = BertTokenizerFast(vocab=vocabulary)
    made.model_input_names = ["input_ids", "attention_mask"]  # as DistilBERT's
    return made


class _Collator(DataCollatorWithPadding):
    def __call__(self, features):
        teacher = torch.tensor([f["teacher"] for f in features])
        batch = super().__call__([{k: v for k, v in f.items() if k != "teacher"} for f in features])
        batch.pop("token_type_ids", None)
        return {**batch, "teacher": teacher}


def collate_padded(tokens) -> _Collator:
    """Every batch padded to 128 tokens."""
    return _Collator(tokens, padding="max_length", max_length=MAX_LENGTH)


def arguments(**changes: Any) -> TrainingArguments:
    return TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=BATCH,
        learning_rate=1e-4,
        num_train_epochs=1,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        seed=0,
        label_names=["labels"],
        **changes,
    )


class Peer:
    """One peer's training of one model, which can be timed again and again."""

    def __init__(
        self,
        shape: str,
        *,
        lora: bool,
        padding: bool | str,
        teacher: str | None = None,
        **changes: Any,
    ) -> None:
        self.model = make_model(shape, attention="sdpa")
        if lora:
            self.model = with_lora(self.model, shape)
        self.teacher = make_model(teacher, attention="sdpa").eval() if teacher else None
        self.collator = _Collator(tokenizer(), padding=padding, max_length=MAX_LENGTH)
        self.changes = changes

    def seconds_per_example(self, work: Workload, steps: int) -> float:
        """Train `steps` steps after one that is not counted."""
        clock = _Clock()
        self.trainer(work, max_steps=steps + 1, callbacks=[clock]).train()
        return (clock.ends[-1] - clock.ends[0]) / (steps * BATCH)

    def trainer(
        self, work: Workload, *, max_steps: int = -1, callbacks: Sequence[TrainerCallback] = ()
    ) -> DistillingTrainer:
        """The Trainer of this peer on the workload."""
        made = DistillingTrainer(
            model=self.model,
            args=arguments(max_steps=max_steps, **self.changes),
            train_dataset=work.rows(),
            data_collator=self.collator,
            callbacks=list(callbacks),
        )
        made.teacher_model = self.teacher
        return made


def reports_recipe(shape: str, *, lora: bool = True) -> Peer:
    """(a): fp32, padded to 128 tokens, cached logits."""
    return Peer(shape, lora=lora, padding="max_length")


def trainer_at_its_best(shape: str, *, lora: bool = True) -> Peer:
    """(b): bf16 where it is fast, dynamic padding, grouped by length, fused AdamW."""
    return Peer(
        shape,
        lora=lora,
        padding=True,
        bf16=choose_compute().dtype == torch.bfloat16,
        train_sampling_strategy="group_by_length",
        optim="adamw_torch_fused",
    )


def online_teacher(shape: str, *, teacher: str = "bert-base") -> Peer:
    """(c): the teacher's forward pass in every step, dynamic padding."""
    return Peer(shape, lora=True, padding=True, teacher=teacher)
