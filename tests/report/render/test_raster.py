from __future__ import annotations

import pytest

from kdlora.errors import StoreError
from kdlora.report.render import raster

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="10">'
    '<rect width="9" height="9"/></svg>'
)


@pytest.fixture(autouse=True)
def _made(pictures):
    with pictures():
        yield


def test_every_drawing_gets_a_png_of_its_scale_and_a_pdf(tmp_path):
    scales = {}
    for i in range(3):
        path = tmp_path / f"{i}.svg"
        path.write_text(SVG, encoding="utf-8")
        scales[path] = float(i + 1)
    with raster.beside(scales):
        pass
    for path, scale in scales.items():
        png = path.with_suffix(".png").read_bytes()
        assert int.from_bytes(png[16:20]) == 20 * scale  # the width in a PNG's header
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert len(list(tmp_path.iterdir())) == 9


def test_nothing_to_convert_is_no_work():
    with raster.beside({}):
        pass


def test_a_drawing_that_cannot_be_read_is_named(tmp_path):
    missing = {tmp_path / "missing.svg": 1.0}
    with pytest.raises(StoreError, match=r"pictures: .*missing\.svg"), raster.beside(missing):
        pass


def test_an_error_beside_ends_the_conversion(tmp_path):
    path = tmp_path / "a.svg"
    path.write_text(SVG, encoding="utf-8")
    with pytest.raises(ZeroDivisionError), raster.beside({path: 1.0}):
        raise ZeroDivisionError
