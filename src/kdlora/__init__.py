"""kdlora: distil a large fine-tuned encoder into a small LoRA-tuned one, and prove it was worth it.

The public API is imported on first use, so that ``import kdlora`` and ``kdlora --help`` are quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_PUBLIC = {
    "compare": "kdlora.api",
    "compare_arms": "kdlora.api",
    "distil": "kdlora.api",
    "doctor": "kdlora.api",
    "export_model": "kdlora.ship.export",
    "import_results": "kdlora.importing.results",
    "load_frame": "kdlora.records.frame",
    "load_predictor": "kdlora.ship.predict",
    "look": "kdlora.api",
    "mistakes": "kdlora.api",
    "plan": "kdlora.api",
    "predict": "kdlora.api",
    "recommend": "kdlora.api",
    "reproduce": "kdlora.api",
    "run": "kdlora.api",
    "Study": "kdlora.spec.study",
    "read_results": "kdlora.importing.results",
    "read_study": "kdlora.spec.check",
    "trim_vocabulary": "kdlora.models.vocabulary",
    "write_report": "kdlora.api",
}
__all__ = [
    "Study",
    "compare",
    "compare_arms",
    "distil",
    "doctor",
    "export_model",
    "import_results",
    "load_frame",
    "load_predictor",
    "look",
    "mistakes",
    "plan",
    "predict",
    "read_results",
    "read_study",
    "recommend",
    "reproduce",
    "run",
    "trim_vocabulary",
    "write_report",
]

if TYPE_CHECKING:
    from kdlora.api import (
        compare,
        compare_arms,
        distil,
        doctor,
        look,
        mistakes,
        plan,
        predict,
        recommend,
        reproduce,
        run,
        write_report,
    )
    from kdlora.importing.results import import_results, read_results
    from kdlora.models.vocabulary import trim_vocabulary
    from kdlora.records.frame import load_frame
    from kdlora.ship.export import export_model
    from kdlora.ship.predict import load_predictor
    from kdlora.spec.check import read_study
    from kdlora.spec.study import Study


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'kdlora' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
