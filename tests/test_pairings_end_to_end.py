"""Teachers and students of different families, tokenizers and vocabularies, in every pairing.

The shape of the reports' matrix: XLM-R and BERT teach ALBERT and DistilBERT by their logits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from kdlora.data.tasks import load_task
from kdlora.models.checkpoints import read_tokenizer
from kdlora.records.plausible import agreement_bounds
from kdlora.records.predictions import read_predictions
from kdlora.records.store import Store
from tests.harness.finished import finished
from tests.harness.moods import Corner, sentences
from tests.harness.tiny_models import WORDS, save_tiny_encoder

# family: its special tokens in order (the first pads), and the size of its vocabulary
FAIRSEQ = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")
GOOGLE = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
KINDS = {
    "xlm-roberta": ("unigram", FAIRSEQ, 300),
    "bert": ("wordpiece", GOOGLE, 260),
    "albert": ("unigram", GOOGLE, 140),
    "distilbert": ("wordpiece", GOOGLE, 180),
}
TEACHERS, STUDENTS = ("xlm-roberta", "bert"), ("albert", "distilbert")


def own_tokenizer(family: str, texts: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of the family's algorithm, trained on the texts: the pieces differ by family."""
    algorithm, (pad, begin, end, unknown, mask), size = KINDS[family]
    special = [pad, begin, end, unknown, mask]
    if algorithm == "unigram":
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=size, special_tokens=special, unk_token=unknown, show_progress=False
        )
    else:
        made = Tokenizer(models.WordPiece(unk_token=unknown))
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=size, special_tokens=special, show_progress=False
        )
    made.normalizer = normalizers.Lowercase()
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} $B {end}",
        special_tokens=[(begin, 1), (end, 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=pad, cls_token=begin, sep_token=end, unk_token=unknown,
        mask_token=mask, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(corner: Corner, tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("pairings")
    texts = [*WORDS, *sentences(100, 9)[0]]
    for seed, family in enumerate(KINDS):
        tokenizer = own_tokenizer(family, texts)
        changes = {"vocab_size": len(tokenizer)}
        changes |= {"layers": 2, "width": 48} if family in TEACHERS else {"layers": 1}
        save_tiny_encoder(root / family, family, seed=seed, **changes)
        tokenizer.save_pretrained(root / family)
    study = corner.study(
        pairs=[],
        matrix={
            "teachers": [str(root / family) for family in TEACHERS],
            "students": [str(root / family) for family in STUDENTS],
        },
        arms=["teacher/fft", "student/kd-fft"],
        baselines=False,
        training={"epochs": 1, "batch_size": 8, "dropout": 0.0, "max_length": 32,
                  "precision": "fp32", "lr": {"fft": 3e-3, "peft": 1e-2}},
    )  # fmt: skip
    return root, finished(corner, study, root / "out")


def test_the_tokenizers_really_differ(done) -> None:
    root, _ = done
    text = " ".join(WORDS)
    made = {family: read_tokenizer(str(root / family)) for family in KINDS}
    assert len({len(tokenizer) for tokenizer in made.values()}) == 4
    assert len({tuple(tokenizer.tokenize(text)) for tokenizer in made.values()}) == 4


def test_every_pairing_is_distilled_and_agrees_within_its_bounds(done) -> None:
    root, frame = done
    store = Store(root / "out")
    records = [store.read(run_id) for run_id in dict.fromkeys(frame["run_id"])]
    taught = [record for record in records if record.run.distillation == "kd"]
    assert len(records) == 2 + 4
    pairs = {(Path(r.run.reference.name).name, Path(r.run.encoder.name).name) for r in taught}
    assert pairs == {(teacher, student) for teacher in TEACHERS for student in STUDENTS}
    for record in taught:
        name, shared = record.run.pair, record.agreement
        teacher = store.read(record.run.teacher_run_id)
        ours, theirs = (r.quality.splits["report"]["accuracy"] for r in (record, teacher))
        low, high = agreement_bounds(ours, theirs, 2)
        assert low - 1e-9 <= shared.agreement <= high + 1e-9, name
        # by the stored predictions, row for row
        one, two = (read_predictions(store.folder(r.run_id)).frame for r in (record, teacher))
        both = one[one["split"] == "report"].merge(two[two["split"] == "report"], on="example_id")
        data = load_task(record.run.task, record.run.data)
        assert len(both) == len(data.reports["report"])
        same = [np.argmax(a) == np.argmax(b)
                for a, b in zip(both["logits_x"], both["logits_y"], strict=True)]  # fmt: skip
        assert shared.agreement == pytest.approx(np.mean(same)), name
        assert [flag.name for flag in record.health if flag.severity == "error"] == [], name
        assert ours > 0.75, name  # learnt through another vocabulary than its teacher's
