"""What a model card says of the score's certainty and of the data, and what it leaves unsaid."""

from __future__ import annotations

from kdlora.records.data_look import DataFinding, DataLook, SplitCount, TokenCount
from kdlora.ship.card_facts import CardFacts
from tests.harness.exported import card_of

LOOK = DataLook(
    "moods", "classification", ("text",), "0",
    (SplitCount("train", "a.csv", 1200, {"good": 700, "bad": 500}),),
    (TokenCount(("minilm-l3",), 1200, 1200, 64, 20, 50, 90, 0.03, 0.01, 0.0, 0.0, 1.2),
     TokenCount(("other",), 1200, 1200, 64, 99, 99, 99, 0.5, 0.1, 0.0, 0.0, 1.2)),
    (DataFinding("cut_texts", "warning", "3 % of the texts are cut", "Raise max_length"),
     DataFinding("short", "info", "It is short")),
)  # fmt: skip


def test_rows_classes_and_lengths_of_its_own_encoder_are_told() -> None:
    told = list(CardFacts(look=LOOK, encoder="minilm-l3").data())
    assert told[0] == "train: 1,200 rows (good 700, bad 500)"
    assert told[1:] == [
        "lengths: median 20 tokens, 99 % within 50, longest 90; 3 % of the texts are longer than 64"
    ]


def test_what_was_doubtful_in_the_data_is_a_limit() -> None:
    assert list(CardFacts(look=LOOK).limits()) == ["3 % of the texts are cut. Raise max_length."]


def test_the_interval_says_what_it_does_not_hold() -> None:
    (told,) = CardFacts(interval=(0.71234, 0.8)).scores(card_of())
    assert "0.7123 to 0.8000" in told
    assert "other seeds" in told


def test_nothing_known_says_nothing() -> None:
    known = CardFacts()
    assert [*known.scores(card_of()), *known.data(), *known.limits()] == []


def test_labels_that_may_be_wrong_are_a_limit_with_their_judge() -> None:
    (told,) = CardFacts(doubted=(12, 1200, "its teacher")).limits()
    assert "Of the 1,200 labels of the report split 12 may be wrong" in told
    assert "its teacher" in told
    assert list(CardFacts(doubted=(0, 1200, "its teacher")).limits()) == []
