"""SVG files to PNG and PDF, in a process beside the one that writes the page.

The converter holds Python's lock while it works, so only a process of its own runs in parallel.
`python -m kdlora.report.render.raster` reads the files from its input, one a line:
``scale<TAB>path``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import vl_convert

from kdlora.errors import StoreError
from kdlora.files import read_text, whole_file


@contextmanager
def beside(scales: Mapping[Path, float]) -> Iterator[None]:
    """Convert each SVG (to PNG pixels per unit) while the body runs; done when the body is left.

    Raises StoreError where a picture cannot be made or written.
    """
    items = list(scales.items())
    shares = [share for share in (items[0::2], items[1::2]) if share]
    processes = [_start(share) for share in shares]
    try:
        yield
        problems = [process.communicate()[1] for process in processes]
    except BaseException:
        for process in processes:
            process.kill()
            process.wait()
        raise
    for process, problem in zip(processes, problems, strict=True):
        if process.returncode:
            last = problem.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
            raise StoreError(f"cannot write the pictures: {last[0]}")


def _start(share: Sequence[tuple[Path, float]]) -> subprocess.Popen[str]:
    """A process that converts its share of the files."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert process.stdin is not None
    process.stdin.write("".join(f"{scale}\t{path}\n" for path, scale in share))
    process.stdin.close()
    process.stdin = None
    return process


def convert(svg: Path, scale: float) -> None:
    """Write the PNG and the PDF beside an SVG, each as a whole."""
    text = read_text(svg)
    _write(svg.with_suffix(".png"), vl_convert.svg_to_png(text, scale=scale))
    _write(svg.with_suffix(".pdf"), vl_convert.svg_to_pdf(text))


def _write(path: Path, content: bytes) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


if __name__ == "__main__":
    for line in sys.stdin:
        given, _, name = line.rstrip("\n").partition("\t")
        convert(Path(name), float(given))
