"""Predictions for texts in memory: one, a list, pairs, or a data frame; models stay loaded."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeGuard, overload

from kdlora.errors import InputError
from kdlora.files import real_path
from kdlora.ship.answers import Answer, Predictor, answer_columns, flat
from kdlora.ship.named_model import model_folder
from kdlora.ship.predict import load_predictor
from kdlora.tables.reader import text_of
from kdlora.tables.templates import columns_of, composed_columns

if TYPE_CHECKING:
    import pandas as pd

    Rows = str | Sequence[str] | Sequence[Sequence[str]] | pd.DataFrame

MOST_LOADED = 2  # models that stay in memory
_TOLD = 5  # wrong texts that are named

_loaded: OrderedDict[tuple[object, ...], Predictor] = OrderedDict()
_lock = Lock()


def loaded_predictor(model: str | Path | Predictor) -> Predictor:
    """A predictor itself, or the model of a folder; the last two folders stay loaded.

    A folder whose files changed is loaded again. Raises ModelError or InputError.
    """
    if isinstance(model, Predictor):
        return model
    folder = model_folder(model)
    key = (str(real_path(folder)), *_state(folder))
    with _lock:
        if key not in _loaded:
            _loaded[key] = load_predictor(folder)
        _loaded.move_to_end(key)
        while len(_loaded) > MOST_LOADED:
            _loaded.popitem(last=False)
        return _loaded[key]


def _state(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files of a folder and of the folders in it."""
    files = sorted(path for path in folder.glob("**/*") if path.is_file())
    return [(str(p), (stat := p.stat()).st_size, stat.st_mtime_ns) for p in files]


@overload
def predict_rows(predictor: Predictor, rows: pd.DataFrame) -> pd.DataFrame: ...
@overload
def predict_rows(
    predictor: Predictor, rows: str | Sequence[str] | Sequence[Sequence[str]]
) -> list[Answer]: ...
def predict_rows(predictor: Predictor, rows: Rows) -> list[Answer] | pd.DataFrame:
    """One answer a text or pair, in their order; of a data frame, a copy with the answers beside.

    Args:
        rows: one text, which is not taken for a list of letters; a sequence of texts; a sequence
            of pairs, for a model that reads two texts; or a data frame with the columns of the
            model's texts (of any name, where it has one column and the model reads one text).

    Raises InputError that names what is no text.
    """
    if _is_frame(rows):
        return _with_answers(predictor, rows)
    if not isinstance(rows, Iterable) or isinstance(rows, Mapping | Set | bytes):
        raise InputError(  # of a mapping its keys would be read, and a set has no order
            f"{_named(rows)} is no list of texts: give a text, a list of them, or a data frame"
        )
    texts: list[Any] = [rows] if isinstance(rows, str) else list(rows)
    pairs = [(item,) if isinstance(item, str) else item for item in texts]
    problems = list(_problems(pairs, predictor.columns))
    if problems:
        raise InputError(problems)
    if not pairs:
        return []
    return predictor([list(column) for column in zip(*pairs, strict=True)])


def _is_frame(rows: Rows) -> TypeGuard[pd.DataFrame]:
    """Whether these are a data frame; pandas is not imported for it."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(rows, pandas.DataFrame)


def _problems(rows: Sequence[Any], columns: int) -> list[str]:
    expected = "a text" if columns == 1 else "a pair of texts"
    problems = []
    for place, row in enumerate(rows):
        fits = isinstance(row, tuple | list) and all(isinstance(text, str) for text in row)
        if not fits:
            problems.append(f"text {place} is {_named(row)}, expected {expected}")
        elif len(row) != columns:
            problems.append(f"text {place} holds {len(row)} texts, but the model reads {expected}")
        if len(problems) == _TOLD:
            break
    return problems


def _named(value: Any) -> str:
    """What a value is, and the value where it is short."""
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 40 else shown[:37] + '...'}"


def _with_answers(predictor: Predictor, frame: pd.DataFrame) -> pd.DataFrame:
    wanted = predictor.card.text_columns or ["text"]
    present = list(map(str, frame.columns))
    if len(wanted) == len(present) == 1:
        wanted = present
    fields = columns_of(wanted, present)
    missing = [name for name in fields if present.count(name) != 1]
    if missing:
        raise InputError(
            f"the data frame has no single column {', '.join(missing)}, which the model reads; it "
            f"has {', '.join(present)}"
        )
    added = answer_columns(predictor.card)
    own = [name for name in added if name in present]
    if own:
        raise InputError(
            f"the data frame has columns of its own that are called {' and '.join(own)}, as the "
            "predictions are: rename them"
        )
    texts = {name: [text_of(cell) for cell in frame[name].tolist()] for name in fields}
    answers = predictor(composed_columns(wanted, texts, present)) if len(frame) else []
    cells = [flat(answer) for answer in answers]
    columns = zip(*cells, strict=True) if cells else [[] for _ in added]
    return frame.assign(**dict(zip(added, map(list, columns), strict=True)))
