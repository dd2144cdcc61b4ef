"""`kdlora trim` from a file of texts to a folder that is an encoder."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from kdlora.cli.app import app
from kdlora.errors import InputError, KdloraError
from kdlora.models.checkpoints import read_tokenizer
from tests.harness.tiny_models import WORDS, save_tiny_encoder

TEXTS = [" ".join(WORDS[i : i + 5]) for i in range(0, 60)]


def trim(*arguments: str):
    done = CliRunner().invoke(app, ["trim", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


@pytest.mark.parametrize("ending", ["txt", "csv"])
def test_lines_and_tables_are_a_corpus(tmp_path, ending):
    whole = save_tiny_encoder(tmp_path / "whole")
    corpus = tmp_path / f"corpus.{ending}"
    corpus.write_text("\n".join(["text", *TEXTS] if ending == "csv" else [*TEXTS, ""]))
    small = tmp_path / "small"
    done = trim(whole.path, "--corpus", str(corpus), "--to", str(small), "--json")
    facts = json.loads(done.stdout)
    assert facts["tokens_after"] == len(read_tokenizer(str(small))) < facts["tokens_before"]
    with pytest.raises(InputError, match="--replace"):
        trim(whole.path, "--corpus", str(corpus), "--to", str(small))
    shown = trim(whole.path, "--corpus", str(corpus), "--to", str(small), "--replace")
    assert f"{facts['tokens_after']:,}" in shown.stdout


def test_a_corpus_that_is_not_there_is_said(tmp_path):
    whole = save_tiny_encoder(tmp_path / "whole")
    with pytest.raises(InputError, match=r"none\.txt"):
        trim(whole.path, "--corpus", str(tmp_path / "none.txt"), "--to", str(tmp_path / "small"))
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("harm", ["cut weights", "many layers", "negative width", "unknown type"])
def test_an_encoder_that_its_files_do_not_bear_out_is_refused(tmp_path, harm):
    folder = tmp_path / "encoder"
    save_tiny_encoder(folder, "bert")
    config = json.loads((folder / "config.json").read_text())
    if harm == "cut weights":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:500])
    else:
        config |= {
            "many layers": {"num_hidden_layers": 100_000},
            "negative width": {"hidden_size": -4},
            "unknown type": {"model_type": "evil"},
        }[harm]
        (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "corpus.txt").write_text("\n".join([" ".join(WORDS)] * 20))
    given = ["trim", str(folder), "--corpus", str(tmp_path / "corpus.txt"), "--to"]
    done = CliRunner().invoke(app, [*given, str(tmp_path / "small")])
    assert isinstance(done.exception, KdloraError), done.exception
    assert not (tmp_path / "small").exists()
