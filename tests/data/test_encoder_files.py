"""What the files of an encoder say, wherever they are: a folder, an adapter's base, nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdlora.data.encoder_files import encoder_config, encoder_file, tokenizer_rules
from kdlora.planning.encoder_shapes import shape_of
from kdlora.planning.text_length import shortest_reach
from kdlora.spec.run import EncoderRef


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(
        '{"model_type": "bert", "max_position_embeddings": 48, "hidden_size": 8, "vocab_size": 99, '
        '"num_hidden_layers": 3, "intermediate_size": 16}'
    )
    (folder / "tokenizer.json").write_text("rules")
    return folder


def ref(folder: Path) -> EncoderRef:
    return EncoderRef(name="x", source="folder", path=str(folder))


def test_an_adapter_is_known_by_its_base(base: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{base}"}}')
    assert tokenizer_rules(ref(adapter)) == "rules"
    assert encoder_config(ref(adapter)) == encoder_config(ref(base))
    shape, known = shape_of(ref(adapter))
    assert (shape.layers, known) == (3, True)


def test_what_is_not_here_or_cannot_be_read_is_none(base: Path, tmp_path: Path) -> None:
    nobody = EncoderRef(name="nobody/has-it", source="hub")
    assert encoder_file(nobody, "config.json") is encoder_config(nobody) is None
    assert tokenizer_rules(nobody) is None
    assert encoder_config(EncoderRef(name="no such/name?", source="hub")) is None
    (base / "config.json").write_text("{broken")
    assert encoder_config(ref(base)) is None
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{")
    assert encoder_config(ref(broken)) is None
    assert shortest_reach([ref(broken)]) is None
