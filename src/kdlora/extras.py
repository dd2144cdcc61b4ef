"""What is installed for what: the package's extras, and the one sentence for a missing one.

The core checks study files and prints help. All else stands in an extra, along what people do, so
that a machine that serves needs no torch and one that reads results no model library.
"""

from __future__ import annotations

from importlib.util import find_spec

from kdlora.errors import InputError

# module -> the extra that brings it; of a module in several extras the one that asks least
OF_MODULE = {
    **dict.fromkeys(
        ("onnxruntime", "tokenizers", "huggingface_hub", "fastapi", "uvicorn", "httptools",
         "prometheus_client"),
        "serve",
    ),
    **dict.fromkeys(
        ("pandas", "pyarrow", "scipy", "sklearn", "threadpoolctl", "altair", "vl_convert",
         "jinja2"),
        "report",
    ),
    **dict.fromkeys(
        ("torch", "transformers", "peft", "datasets", "safetensors", "onnx"), "train"
    ),
    "onnxscript": "onnx",
    "cleanlab": "labels",
    **dict.fromkeys(("mlflow", "sqlalchemy", "alembic"), "mlflow"),
    "trackio": "trackio",
    "ray": "ray",
}  # fmt: skip


def is_installed(module: str) -> bool:
    return find_spec(module) is not None


def install_command(module: str, extra: str | None = None) -> str:
    """What to type to get a module, with the rest of its extra."""
    return f"pip install 'kdlora[{extra or OF_MODULE[module]}]'"


def need(purpose: str, *modules: str, extra: str | None = None) -> None:
    """Raise InputError, naming the extra to install, unless all `modules` can be imported.

    `extra` is the one that brings all of them, where the first missing module has a smaller one.
    """
    missing = [module for module in modules if not is_installed(module)]
    if missing:
        raise InputError(_sentence(purpose, missing, extra))


def what_is_missing(
    error: ModuleNotFoundError, purpose: str = "this", extra: str | None = None
) -> str | None:
    """The same sentence for an import that failed for want of an extra; None for any other.

    `extra` is the one that brings all that the purpose takes.
    """
    module = (error.name or "").partition(".")[0]
    if module not in OF_MODULE or is_installed(module):
        return None
    return _sentence(purpose, [module], extra)


def _sentence(purpose: str, missing: list[str], extra: str | None = None) -> str:
    are = "is" if len(missing) == 1 else "are"
    return (
        f"{purpose} needs {', '.join(missing)}, which {are} not installed: "
        f"{install_command(missing[0], extra)}"
    )
