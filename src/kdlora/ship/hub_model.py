"""A model by its name on the hub, as a model card prints it: fetched once, then a folder."""

from __future__ import annotations

import re
from pathlib import Path

from kdlora.errors import ModelError
from kdlora.files import nearest_folder

# owner/name as the hub allows it; with a dot or tilde before it a path is meant
_NAME = re.compile(r"[A-Za-z0-9][\w-]*(\.[\w-]+)*/[A-Za-z0-9][\w-]*(\.[\w-]+)*")

_PATIENCE_S = 5.0  # for the hub's first answer


def model_folder(model: str | Path) -> Path:
    """The folder of a model: as it is named, or what the hub has under this name.

    Raises ModelError where there is neither a folder nor a model that the hub gives; what is no
    name of the hub stays as it is.
    """
    folder = Path(model).expanduser()
    name = str(model)
    if folder.exists() or not _NAME.fullmatch(name):
        return folder
    if near := nearest_folder(folder):
        raise ModelError(
            f"there is no folder {name}. Did you mean '{near}'? A model of the hub whose name is "
            "so near is given by its folder: hf download prints it"
        )
    return fetch_model(name)


def fetch_model(name: str, patterns: list[str] | None = None) -> Path:
    """The folder of a model of the hub: all of its files, or those that fit the patterns.

    What was fetched before is used where the hub is out of reach. Raises ModelError where the hub
    does not give it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=patterns, etag_timeout=_PATIENCE_S))
    except RepositoryNotFoundError:
        raise ModelError(
            f"there is no folder {name}, and the hub has no model of that name that may be read"
        ) from None
    except Exception as error:  # the hub's HTTP library, and so its errors, differ by version
        detail = " ".join(str(error.__cause__ or error).split())[:200].rstrip(".")
        raise ModelError(
            f"there is no folder {name}, and the hub cannot be asked for a model of that name: "
            f"{detail}. Give a folder, or fetch the model first: hf download {name}"
        ) from None
