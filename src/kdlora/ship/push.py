"""An exported folder to the model hub."""

from __future__ import annotations

from pathlib import Path

from kdlora.errors import FetchError


def push(folder: Path, name: str, *, private: bool = True) -> str:
    """Upload every file of `folder` to the hub as model `name`; returns the page's address.

    The repository is made where there is none, private unless told otherwise; an existing one
    keeps its visibility. Log in first (``hf auth login``, or HF_TOKEN). Raises FetchError.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import LocalTokenNotFoundError

    api = HfApi()
    try:
        repository = api.create_repo(name, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            folder_path=folder, repo_id=repository, commit_message="Exported by kdlora"
        )
    except LocalTokenNotFoundError:
        raise FetchError(
            f"pushing to '{name}' needs a login: run `hf auth login`, or set HF_TOKEN. "
            f"The export itself is whole: {folder}"
        ) from None
    except Exception as error:  # the hub's HTTP library, and so its errors, differ by version
        detail = " ".join(str(error).split())[:300]
        raise FetchError(
            f"the hub did not take '{name}': {detail} The export itself is whole: {folder}"
        ) from None
    return str(commit.repo_url)
