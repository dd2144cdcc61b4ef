"""A Dockerfile for an exported folder: the server, the ONNX model, and nothing that trains."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from kdlora.errors import InputError
from kdlora.records.artefact import Artefact
from kdlora.records.store import write_text

DOCKERFILE, IGNORED = "Dockerfile", ".dockerignore"
PORT = 8000

_TEXT = """\
# Made by kdlora {version} for {task}; build it in this folder:
#   docker build -t {tag} .
#   docker run --rm -p {port}:{port} {tag}
FROM python:3.12-slim
RUN pip install --no-cache-dir "kdlora[serve]=={version}"
WORKDIR /model
COPY . /model
USER 10001
EXPOSE {port}
HEALTHCHECK --start-period=30s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:{port}/health')"]
CMD ["kdlora", "serve", "/model", "--host", "0.0.0.0", "--port", "{port}"]
"""
# what an image that serves ONNX does not read
_LEFT_OUT = ("adapter", "model.safetensors", DOCKERFILE, IGNORED)


def write_dockerfile(folder: Path, artefact: Artefact, *, tag: str) -> None:
    """Write both files into an export. Raises InputError where it has no ONNX form to serve."""
    if not any(v.runtime == "onnx" and v.servable for v in artefact.variants):
        raise InputError(
            "a Dockerfile serves an ONNX form, and none was exported: add onnx to --format"
        )
    text = _TEXT.format(version=version("kdlora"), task=artefact.task, tag=_tag(tag), port=PORT)
    write_text(folder / DOCKERFILE, text)
    write_text(folder / IGNORED, "\n".join(_LEFT_OUT) + "\n")


def _tag(name: str) -> str:
    """A name as images may have it: small letters, digits and hyphens."""
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
    return kept.strip("-").lower() or "model"
