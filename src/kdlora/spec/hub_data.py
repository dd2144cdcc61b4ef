"""Data sets of the hub by name: which revision is meant, and where its rows are kept.

The revision is a part of a run's id, so it is asked for when a study is planned. Where the hub is
out of reach it is the one that was used last.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from kdlora.errors import InputError
from kdlora.files import cache_dir, is_folder, read_text, whole_file
from kdlora.spec.fingerprint import hash_files
from kdlora.spec.sections import OwnTask

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_S = 8.0


def data_set_revision(name: str, revision: str | None, folder: Path) -> str:
    """The commit that a data set's revision means; of a local folder the hash of what it holds.

    Args:
        folder: where a local repository of this name would lie; it goes before the hub.

    Raises InputError for a name that the hub does not know, or that it cannot be asked for.
    """
    if is_folder(folder):
        if revision is not None:
            raise InputError(f"{folder} is a folder, which has no revision: leave it out")
        return hash_files(_files(folder))
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise InputError(
            f"no folder at {folder}, and '{name}' is no name of the hub; expected owner/name"
        )
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    return _asked(name, revision)


def _asked(name: str, revision: str | None) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    remembered = cache_dir() / "datasets" / _slug(name) / "refs" / _slug(revision or "main")
    try:
        found = HfApi().dataset_info(name, revision=revision, timeout=_TIMEOUT_S).sha
    except (RepositoryNotFoundError, HFValidationError) as error:
        detail = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(f"the hub has no data set '{name}' that may be read: {detail}") from None
    except Exception as error:  # the hub's HTTP library, and so its errors, differ by version
        if remembered.is_file():
            return read_text(remembered).strip()
        detail = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(
            f"the hub cannot be asked for data set '{name}': {detail}. Check the network, or give "
            "a folder that holds a copy of the repository"
        ) from None
    if found is None:
        raise InputError(f"the hub names no revision of data set '{name}'")
    remembered.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(remembered) as temporary:
        temporary.write_text(found, encoding="utf-8")
    return found


def stored_splits(own: OwnTask) -> dict[str, Path]:
    """Where the rows of a task's "train" and perhaps "eval" split are kept, once they are fetched.

    `own` names its revision, as a plan resolves it.
    """
    assert own.hub is not None
    folder = cache_dir() / "datasets" / _slug(Path(own.hub).name if _is_path(own.hub) else own.hub)
    stem = f"{own.revision}-{_slug(own.config or 'default')}"
    splits = {"train": own.train, "eval": own.eval}
    return {
        part: folder / f"{stem}-{_slug(split)}.parquet" for part, split in splits.items() if split
    }


def is_stored(own: OwnTask) -> bool:
    """Whether the rows of a task of the hub can be read without the hub."""
    return all(path.is_file() for path in stored_splits(own).values())


def _is_path(name: str) -> bool:
    return os.path.isabs(name)


def _files(folder: Path) -> Sequence[Path]:
    """All files of a local repository but hidden ones, in the order of their names."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in found if not any(p[0] == "." for p in path.relative_to(folder).parts)]


def _slug(name: str) -> str:
    """A name that is safe in paths."""
    return re.sub(r"[^A-Za-z0-9._-]", "--", name)
