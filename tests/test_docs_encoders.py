"""The page of the packaged encoders says what the code fetches."""

from __future__ import annotations

from pathlib import Path

from kdlora.data import packaged
from kdlora.planning.encoder_shapes import shape_of
from kdlora.spec.encoders import HUB_NAMES, PACKAGED_ENCODERS, licence_of
from kdlora.spec.run import EncoderRef

PAGE = Path(__file__).resolve().parent.parent / "docs" / "encoders.md"


def test_every_packaged_encoder_has_its_row() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = {
        cells[0].strip("`"): cells[1:]
        for line in text.splitlines()
        if line.startswith("| `") and (cells := [c.strip() for c in line.strip("|").split("|")])
    }
    assert tuple(rows) == PACKAGED_ENCODERS
    for name, (hub, layers, parameters, size, licence) in rows.items():
        shape, known = shape_of(EncoderRef(name=name, source="package"))
        assert known
        assert hub == f"`{HUB_NAMES[name]}`"
        assert layers == f"{shape.layers} x {shape.width}"
        assert parameters == f"{shape.params / 1e6:.1f} M"
        assert size == str(packaged._SIZES_MB[name])
        assert licence == licence_of(HUB_NAMES[name])
