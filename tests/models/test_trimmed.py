"""A student with a cut vocabulary, from the study file to its card."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

from kdlora.api import check
from kdlora.data.encoder_files import encoder_file, trimmed_folder
from kdlora.errors import DataError, InputError, ModelError
from kdlora.models.saved import load_trained
from kdlora.models.trimmed import trimmed_encoder
from kdlora.planning.encoder_shapes import shape_of
from kdlora.planning.preflight import preflight
from kdlora.recipes import run as recipes
from kdlora.records.frame import save_plan
from kdlora.records.store import Store
from kdlora.records.vocabulary_cut import read_cut
from kdlora.ship import model_card
from kdlora.spec.check import make_study
from kdlora.spec.run import EncoderRef
from tests.harness.tiny_models import WORDS
from tests.harness.trimmable import save_encoder, sentences

FEW = WORDS[:60]


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of its own: what is cut is kept there."""
    monkeypatch.setenv("KDLORA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("whole") / "encoder", "WordPiece")


def study(folder: Path, whole: Path, **vocabulary):
    """One teacher and its student, which is the same encoder with fewer tokens."""
    (folder / "corpus.txt").write_text("\n".join(sentences(400, FEW)) + "\n", "utf-8")
    rng = random.Random(0)
    texts = dict.fromkeys(sentences(90, FEW, seed=5))
    rows = "".join(f"{t},{rng.choice(('no', 'yes'))}\n" for t in texts)
    (folder / "rows.csv").write_text(f"text,label\n{rows}", "utf-8")
    kept = {"corpus": "corpus.txt", "keep": 1.0} | vocabulary
    student = {"from": "teacher", "vocabulary": kept}
    values = {
        "name": "small", "tasks": [{"name": "mood", "train": "rows.csv"}],
        "pairs": [{"teacher": str(whole), "student": student}],
        "arms": ["teacher/fft", "student/kd-lora"], "seeds": [1], "baselines": False,
        "training": {"epochs": 1, "batch_size": 16, "max_length": 16, "precision": "fp32"},
        "adapter": {"rank": 2},
    }  # fmt: skip
    return make_study({**values, "base_dir": str(folder)})


def student_of(planned) -> EncoderRef:
    return next(one.encoder for one in planned.runs if one.role == "student")


def test_a_student_is_trained_with_its_cut_vocabulary(tmp_path, whole, cache, monkeypatch):
    monkeypatch.setattr(recipes, "inference_costs", lambda *rest, **more: {})  # takes most of it
    made, store = study(tmp_path, whole), Store(tmp_path / "done")
    plan = check(made)
    store.prepare()
    save_plan(store, made, plan)
    for run in plan.runs:
        recipes.run_one(run, store)
    records = {run.role: store.read(run.run_id) for run in plan.runs}
    cut, teacher = records["student"].facts.vocabulary, records["teacher"]
    assert teacher.facts.vocabulary is None
    assert 0 < cut.tokens_after < cut.tokens_before
    assert cut.checked_texts > 0
    sizes = [r.efficiency.total_params for r in (records["student"], teacher)]
    assert sizes[0] < sizes[1]
    assert records["student"].run.encoder.title.endswith("[vocabulary 1 of corpus.txt]")
    # the adapter outlives the cache, and what is shipped has the few tokens
    folder = store.folder(records["student"].run_id) / "model"
    before, tokenizer = load_trained(folder)
    assert len(tokenizer) == cut.tokens_after
    shutil.rmtree(cache)
    (tmp_path / "corpus.txt").unlink()
    after, _ = load_trained(folder)
    for name, weight in before.state_dict().items():
        assert torch.equal(weight, after.state_dict()[name]), name
    told = "".join(model_card._made(records["student"], MagicMock(), MagicMock()))
    assert f"{cut.tokens_after:,} of {cut.tokens_before:,} tokens" in told


def test_the_plan_tells_the_cut_students_size_once_it_is_known(tmp_path, whole, cache):
    encoder = student_of(check(study(tmp_path, whole)))
    assert encoder_file(encoder, "config.json") == whole / "config.json"
    before, _ = shape_of(encoder)
    folder = trimmed_encoder(encoder)
    assert encoder_file(encoder, "config.json") == folder / "config.json"
    after, known = shape_of(encoder)
    assert known
    assert after.vocabulary == read_cut(folder).tokens_after < before.vocabulary


def test_a_vocabulary_is_cut_before_the_first_run_and_found_again(tmp_path, whole, cache):
    plan, notes = check(study(tmp_path, whole)), []
    preflight(plan, notes.append)
    encoder = student_of(plan)
    folder = trimmed_encoder(encoder, notes.append)
    assert folder == trimmed_folder(encoder)
    assert len([note for note in notes if "cutting the vocabulary" in note]) == 1
    fewer = encoder.model_copy(update={"layers": (0,)})
    assert trimmed_folder(fewer) == folder  # the same files, whatever is then taken of them


def test_another_corpus_is_another_run_and_a_moved_one_is_not(tmp_path, whole, cache):
    first = student_run(study(tmp_path, whole))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    assert student_run(study(moved, whole)).run_id == first.run_id
    assert student_run(study(tmp_path, whole, keep=0.9)).run_id != first.run_id
    made = study(tmp_path, whole)
    (tmp_path / "corpus.txt").write_text("\n".join(sentences(50, WORDS)), "utf-8")
    assert student_run(made).run_id != first.run_id


def student_run(made):
    return next(one for one in check(made).runs if one.role == "student")


def test_a_corpus_that_changed_since_the_plan_is_refused(tmp_path, whole, cache):
    encoder = student_of(check(study(tmp_path, whole)))
    (tmp_path / "corpus.txt").write_text("other texts\n" * 20, "utf-8")
    with pytest.raises(ModelError, match="is not the file that the study was planned with"):
        trimmed_encoder(encoder)


def test_a_missing_or_unreadable_corpus_is_one_message(tmp_path, whole, cache):
    with pytest.raises(InputError, match=r"student.vocabulary.corpus: no file at .*none\.txt"):
        check(study(tmp_path, whole, corpus="none.txt"))
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfa" * 50)
    encoder = student_of(check(study(tmp_path, whole, corpus="bytes.txt")))
    with pytest.raises(DataError, match="cannot read"):
        trimmed_encoder(encoder)
