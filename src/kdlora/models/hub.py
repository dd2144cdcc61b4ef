"""Fetching a model of the hub as a folder; nothing here needs torch."""

from __future__ import annotations

from pathlib import Path

from kdlora.errors import ModelError

_PATIENCE_S = 5.0  # for the hub's first answer


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
