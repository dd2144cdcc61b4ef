"""Data sets that people know to be sound raise no alarm."""

from __future__ import annotations

import pytest

from kdlora.data.checks.look import look_at
from kdlora.data.checks.tokens import EncoderTokenizer, parse_tokenizer
from kdlora.data.packaged import is_fetched, packaged_folder
from kdlora.data.tasks import load_task
from kdlora.spec.run import TaskRef
from kdlora.spec.sections import Data
from kdlora.vocabulary.task import TASKS

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def tokenizer() -> EncoderTokenizer:
    path = packaged_folder("minilm-l6") / "tokenizer.json"
    if not path.is_file():
        pytest.skip(f"no {path}: the packaged encoder was never fetched")
    return EncoderTokenizer(("minilm-l6",), parse_tokenizer(path.read_text("utf-8")), 128)


def undoubted(ref: TaskRef, tokenizer: EncoderTokenizer) -> None:
    found = look_at(load_task(ref, Data()), ref, [tokenizer])
    assert found.of("error", "warning") == ()
    assert found.tokens[0].tokens_per_word < 1.5


@pytest.mark.parametrize("name", ["sst2", "hate", "qqp"])
def test_sentences_tweets_and_questions(name, shared, tokenizer):
    folder, version = shared / "glue" / name, TASKS[name].version
    undoubted(TaskRef(name=name, version=version, source="folder", folder=str(folder)), tokenizer)


def test_movie_reviews(tokenizer):
    if not is_fetched("movie-reviews"):
        pytest.skip("the movie reviews were never fetched")
    version = TASKS["movie-reviews"].version
    undoubted(TaskRef(name="movie-reviews", version=version, source="package"), tokenizer)
