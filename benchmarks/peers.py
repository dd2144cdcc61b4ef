"""The same training as other people run it, written as their users would write it.

- `reports_recipe`: the recipe behind the reports: Trainer and peft, fp32, every text padded to 128
  tokens, the teacher's logits cached.
- `trainer_at_its_best`: Trainer with dynamic padding, batches grouped by length, fused AdamW, the
  faster attention, tcmalloc, and bf16 where it is faster (where the hardware does not multiply it
  torch emulates it, many times slower than fp32).
- `online_teacher`: distillation as most tools do it: the teacher runs in every step.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    BertTokenizer,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices

from benchmarks.turns import Tally, Turn, allocator
from benchmarks.workload import VOCABULARY, Workload, make_model, make_workload, with_lora
from kdlora.training.precision import choose_compute

TEMPERATURE, KD_WEIGHT, MAX_LENGTH, BATCH = 2.0, 0.5, 128, 32


class _GroupedByLength(LengthGroupedSampler):
    """Pools of 50 batches are sorted by length, as the Trainer does from 6,400 texts on.

    On fewer it sorts smaller pools, which pads more than on most data that is worth a benchmark.
    """

    def __iter__(self) -> Iterator[int]:
        lengths, size = self.lengths, self.batch_size
        pool = get_length_grouped_indices(lengths, size, 50, generator=self.generator)
        return iter(pool)


class DistillingTrainer(Trainer):
    """The soft-label loss of Hinton et al. from cached logits, or from a teacher at hand."""

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        sampler = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, LengthGroupedSampler):
            sampler.__class__ = _GroupedByLength
        return sampler

    teacher_model: nn.Module | None = None
    kd_weight = KD_WEIGHT

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor | tuple[torch.Tensor, dict[str, torch.Tensor]]:
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


@functools.cache
def tokenizer() -> BertTokenizer:
    """One token a word `w123`; in training it only pads, since texts are token ids already."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate(words)}
    vocabulary |= {f"w{i}": i for i in range(len(words), VOCABULARY)}
    made = BertTokenizer(vocab=vocabulary)
    made.model_input_names = ["input_ids", "attention_mask"]  # as DistilBERT's
    return made


class _Collator(DataCollatorWithPadding):
    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        teacher = torch.tensor([f["teacher"] for f in features])
        batch = super().__call__([{k: v for k, v in f.items() if k != "teacher"} for f in features])
        batch.pop("token_type_ids", None)
        return {**batch, "teacher": teacher}


def collate_padded(tokens: PreTrainedTokenizerBase) -> _Collator:
    """Every batch padded to 128 tokens."""
    return _Collator(tokens, padding="max_length", max_length=MAX_LENGTH)


def collate_dynamic(tokens: PreTrainedTokenizerBase) -> _Collator:
    """Every batch padded to its longest text."""
    return _Collator(tokens, padding=True)


def arguments(**changes: Any) -> TrainingArguments:
    usual: dict[str, Any] = {
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-4,
        "num_train_epochs": 1,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "remove_unused_columns": False,
        "seed": 0,
        "label_names": ["labels"],
    }
    folder = {} if "output_dir" in changes else {"output_dir": tempfile.mkdtemp()}
    return TrainingArguments(**usual | folder | changes)


class Peer:
    """One peer's training of one model, which can be timed again and again."""

    def __init__(
        self,
        shape: str,
        *,
        lora: bool,
        padding: bool | str,
        attention: str = "sdpa",
        teacher: str | None = None,
        **changes: Any,
    ) -> None:
        self.model: nn.Module = make_model(shape, attention=attention)
        if lora:
            self.model = with_lora(self.model, shape)
        self.teacher = make_model(teacher, attention="sdpa").eval() if teacher else None
        self.collator = _Collator(tokenizer(), padding=padding, max_length=MAX_LENGTH)
        self.changes = changes
        precision = "bf16" if changes.get("bf16") else "fp32"
        self.settings = f"{attention}, {precision}, {allocator()}"

    def epoch(self, work: Workload) -> Turn:
        """Train on every text once."""
        tally, trainer = Tally(), self.trainer(work)
        with counted(self.model, tally):
            begun = time.perf_counter()
            trainer.train()
            return Turn.of(time.perf_counter() - begun, tally, self.settings)

    def trainer(self, work: Workload) -> DistillingTrainer:
        """The Trainer of this peer on the workload."""
        made = DistillingTrainer(
            model=self.model,
            args=arguments(**self.changes),
            train_dataset=work.rows(),
            data_collator=self.collator,
        )
        made.teacher_model = self.teacher
        return made


@contextmanager
def counted(model: nn.Module, tally: Tally) -> Iterator[None]:
    """Meanwhile the batches that the model is given are counted."""
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: tally.note(*kwargs["input_ids"].shape), with_kwargs=True
    )
    try:
        yield
    finally:
        hook.remove()


def reports_recipe(shape: str, lora: bool = True) -> Peer:
    """(a): fp32, padded to 128 tokens, cached logits."""
    return Peer(shape, lora=lora, padding="max_length")


def trainer_at_its_best(shape: str, lora: bool = True, work: Workload | None = None) -> Peer:
    """(b): dynamic padding, grouped by length, fused AdamW, and what is fastest on `work`.

    Eager attention and sdpa are tried, in bf16 too where the hardware multiplies it.
    """
    tried = work or make_workload("movie-reviews", 2 * BATCH)
    formats = [False, True] if choose_compute().dtype == torch.bfloat16 else [False]
    found: list[tuple[float, Peer]] = []
    for attention, bf16 in itertools.product(("eager", "sdpa"), formats):
        peer = Peer(
            shape,
            lora=lora,
            padding=True,
            attention=attention,
            bf16=bf16,
            train_sampling_strategy="group_by_length",
            optim="adamw_torch_fused",
        )
        found.append((min(peer.epoch(tried).seconds for _ in range(2)), peer))
    return min(found, key=lambda one: one[0])[1]


def online_teacher(shape: str, lora: bool = True, *, teacher: str = "bert-base") -> Peer:
    """(c): the teacher's forward pass in every step, dynamic padding."""
    return Peer(shape, lora=lora, padding=True, teacher=teacher)


PEERS: dict[str, Callable[[str, bool], Peer]] = {
    "reports_recipe": reports_recipe,
    "trainer_at_its_best": trainer_at_its_best,
    "online_teacher": online_teacher,
}

# texts, what counts their batches -> how the model was set up
Labels = Callable[[list[str], Tally], str]


def pipeline_labels(shape: str) -> Labels:
    """transformers' pipeline, fp32, batches of 32 in the order of the texts."""
    from transformers import pipeline

    model = make_model(shape, attention="sdpa").eval()
    pipe = pipeline("text-classification", model=model, tokenizer=tokenizer(), device="cpu")

    def score(texts: list[str], tally: Tally) -> str:
        with counted(model, tally):
            pipe(texts, batch_size=BATCH, truncation=True, max_length=MAX_LENGTH)
        return f"sdpa, fp32, {allocator()}"

    return score


def loop_labels(shape: str) -> Labels:
    """A loop over batches sorted by length, of the size, number format and attention that is best.

    All are tried on the texts of the first call.
    """
    formats = [torch.float32]
    if choose_compute().dtype == torch.bfloat16:
        formats.append(torch.bfloat16)
    tokens = tokenizer()
    models = {
        (attention, dtype): make_model(shape, attention=attention).eval().to(dtype)
        for attention in ("eager", "sdpa")
        for dtype in formats
    }
    best: list[tuple[str, torch.dtype, int]] = []

    def loop(texts: list[str], choice: tuple[str, torch.dtype, int], tally: Tally) -> None:
        attention, dtype, size = choice
        model = models[attention, dtype]
        ids = tokens(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        with torch.inference_mode(), counted(model, tally):
            for start in range(0, len(order), size):
                rows = {"input_ids": [ids[i] for i in order[start : start + size]]}
                model(**tokens.pad(rows, return_tensors="pt"))

    def seconds(texts: list[str], choice: tuple[str, torch.dtype, int]) -> float:
        taken = []
        for _ in range(2):
            begun = time.perf_counter()
            loop(texts, choice, Tally())
            taken.append(time.perf_counter() - begun)
        return min(taken)

    def score(texts: list[str], tally: Tally) -> str:
        if not best:
            choices = [(*made, size) for made in models for size in (16, 64, 128)]
            best.append(min(choices, key=lambda choice: seconds(texts[:256], choice)))
        loop(texts, best[0], tally)
        attention, dtype, size = best[0]
        precision = "bf16" if dtype == torch.bfloat16 else "fp32"
        return f"{attention}, {precision}, batches of {size}, {allocator()}"

    return score
