"""Files that are there as a whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from kdlora import files
from kdlora.files import (
    UnusableFile,
    beside,
    cache_dir,
    drop_dead_below,
    leftovers,
    odd_kind,
    open_file,
    read_bytes,
    read_text,
    set_aside,
    whole_file,
    whole_folder,
    write_new,
)
from kdlora.records.store import Store
from tests.harness.kills import killed_at_every_change


def test_the_new_content_comes_at_the_end(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert leftovers(path) == [temporary]
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def write_and_fail():
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_the_old_one_or_leaves_it(tmp_path):
    path = tmp_path / "model"

    def write(*names, fail=False):
        with whole_folder(path) as folder:
            for name in names:
                (folder / name).write_text(name)
            if fail:
                raise RuntimeError

    write("a", "b")
    write("c")
    assert [p.name for p in path.iterdir()] == ["c"]
    with pytest.raises(RuntimeError):
        write("d", fail=True)
    assert [p.name for p in path.iterdir()] == ["c"]
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_are_those_of_this_file(tmp_path):
    killed = beside(tmp_path / "a.json")
    killed.write_text("half")
    beside(tmp_path / "b.json").write_text("half")
    (tmp_path / "a.json").write_text("whole")
    assert leftovers(tmp_path / "a.json") == [killed]


@pytest.fixture
def steps(monkeypatch) -> list[str]:
    """What was asked of the disk, in order: names that were made durable, and moves."""
    done: list[str] = []
    sync, replace = files.sync, os.replace

    def note_sync(path: Path) -> None:
        sync(path)
        done.append(f"sync {'new' if path.name.startswith('.') else path.name}")

    def note_replace(source: Path, target: Path) -> None:
        replace(source, target)
        done.append(f"move to {target.name}")

    monkeypatch.setattr(files, "sync", note_sync)
    monkeypatch.setattr(files.os, "replace", note_replace)
    return done


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, steps):
    with whole_file(tmp_path / "a.json") as temporary:
        temporary.write_text("new")
    assert steps == ["sync new", "move to a.json", f"sync {tmp_path.name}"]


def test_all_of_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path, steps):
    with whole_folder(tmp_path / "model") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "weights").write_text("w")
    assert sorted(steps[:3]) == ["sync inner", "sync new", "sync weights"]
    assert steps[3:] == ["move to model", f"sync {tmp_path.name}"]


def test_syncing_asks_the_system(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(files.os, "fsync", lambda handle: asked.append(os.fstat(handle).st_ino))
    (tmp_path / "a").write_text("a")
    files.sync(tmp_path / "a")
    files.sync(tmp_path)
    assert asked == [(tmp_path / "a").stat().st_ino, tmp_path.stat().st_ino]


def test_a_file_system_that_syncs_no_folders_is_borne_with_but_no_other_error(
    tmp_path, monkeypatch
):
    (tmp_path / "a").write_text("a")

    def refuse(handle: int) -> None:
        raise OSError(errno.EINVAL, "not of this")

    monkeypatch.setattr(files.os, "fsync", refuse)
    files.sync(tmp_path)
    with pytest.raises(OSError, match="not of this"):
        files.sync(tmp_path / "a")


@pytest.mark.parametrize("links", [True, False])
def test_the_first_to_write_a_new_file_wins(tmp_path, monkeypatch, steps, links):
    if not links:

        def refuse(source, target):
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(files.os, "link", refuse)
    path = tmp_path / "a.json"
    assert write_new(path, "first")
    assert steps[0] == "sync new"
    assert not write_new(path, "second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_set_aside_takes_the_first_free_name_and_replaces_nothing(tmp_path):
    path = tmp_path / "record.json"
    for name in ("record.damaged-0.json", "record.damaged-2.json"):
        (tmp_path / name).write_text(name)
    for content, name in (("x", "record.damaged-1.json"), ("y", "record.damaged-3.json")):
        path.write_text(content)
        assert set_aside(path) == tmp_path / name
        assert not path.exists()
        assert (tmp_path / name).read_text() == content
    assert (tmp_path / "record.damaged-2.json").read_text() == "record.damaged-2.json"


def test_of_many_that_set_the_same_file_aside_one_does_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "record.json"
    path.write_text("x")
    start, moved, late = threading.Barrier(8), [], []

    def attempt() -> None:
        start.wait()
        try:
            moved.append(set_aside(path))
        except FileNotFoundError:
            late.append(1)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(moved), len(late)) == (1, 7)
    assert list(tmp_path.iterdir()) == moved
    assert moved[0].read_text() == "x"


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("KDLORA_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.setenv("KDLORA_CACHE", "")
    monkeypatch.setenv("HOME", "/home/ada")
    assert cache_dir() == Path("/home/ada/.cache/kdlora")


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_are_readable_as_the_umask_says(tmp_path: Path, umask: int) -> None:
    """Some libraries make files that nobody else can read."""

    def private(path: Path) -> None:
        path.write_text("x", encoding="utf-8")
        path.chmod(0o600)

    before = os.umask(umask)
    try:
        with whole_file(tmp_path / "file") as temporary:
            private(temporary)
        with whole_folder(tmp_path / "folder") as temporary:
            (temporary / "in").mkdir()
            private(temporary / "in" / "file")
    finally:
        os.umask(before)
    for name in ("file", "folder/in/file"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no file"), whole_file(tmp_path / "pipe"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


DEAD = 2**30  # a number that no process has


def left_behind(path: Path, monkeypatch: pytest.MonkeyPatch, pid: int) -> Path:
    """What a process of that number would leave of `path`."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: pid)
        return beside(path)


def test_what_killed_processes_were_writing_is_removed_when_it_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else: not what a living process writes, nor what has its name."""
    for name in ("record.json", "model", "a[1]*?.csv", "n" * 250):
        path = tmp_path / name
        gone, alive = (left_behind(path, monkeypatch, pid) for pid in (DEAD, os.getpid()))
        for folder in (gone, alive):
            folder.mkdir()
            (folder / "weights").write_bytes(b"0" * 100)
        other = tmp_path / f".{name[:80]}.notes.tmp"
        other.write_text("the user's own", encoding="utf-8")
        with whole_file(path) as temporary:
            temporary.write_text("new", encoding="utf-8")
        assert not gone.exists()
        assert alive.exists()
        assert other.exists()
        assert path.read_text(encoding="utf-8") == "new"
        gone.mkdir()
        path.unlink()
        with whole_folder(path) as temporary:
            (temporary / "new").touch()
        assert not gone.exists()
        assert alive.exists()


def test_what_a_dead_process_left_is_removed_though_another_has_its_number_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    with monkeypatch.context() as patch:
        patch.setattr(files, "process_start", lambda pid: "1")  # when no process of today began
        dead = beside(path)
    alive = beside(path)
    for folder in (dead, alive):
        folder.mkdir()
        os.utime(folder, (0, 0))  # a process that lives may also rest for long
    assert drop_dead_below(tmp_path) == [dead]
    assert alive.exists()


def test_names_that_earlier_versions_gave_are_read(tmp_path: Path) -> None:
    """They hold no start of a process: its number alone tells, and days without a change."""
    shared = (socket.gethostname(), Path("/proc/sys/kernel/random/boot_id").read_text(),
              os.readlink("/proc/self/ns/pid"))  # fmt: skip
    mark = hashlib.sha256("\n".join(shared).encode()).hexdigest()[:8]
    made = [tmp_path / f".model.a-host-{mark}-{pid}-abcde{n}.tmp"
            for n, pid in enumerate((DEAD, os.getpid(), os.getpid()))]  # fmt: skip
    for folder in made:
        folder.mkdir()
    os.utime(made[2], (0, 0))
    assert set(leftovers(tmp_path / "model")) == set(made)
    assert set(drop_dead_below(tmp_path)) == {made[0], made[2]}


def test_leftovers_of_other_machines_go_when_nothing_has_changed_for_days(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = 86400.0
    made = {}
    for name, age in (("old", 8 * days), ("new", 6 * days), ("at work", 8 * days)):
        made[name] = folder = tmp_path / f".model.node-7-1234567{len(made)}-99-abcdef.tmp"
        folder.mkdir()
        (folder / "weights").touch()
        then = time.time() - age
        os.utime(folder / "weights", (then, then) if name != "at work" else None)
        os.utime(folder, (then, then))
    first_version = tmp_path / ".record.json.vm-77-abcdef.tmp"
    first_version.touch()
    os.utime(first_version, (0, 0))
    assert set(drop_dead_below(tmp_path)) == {made["old"], first_version}
    assert {path for path in made.values() if path.exists()} == {made["new"], made["at work"]}


def test_a_study_that_runs_again_has_no_leftovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "a"
    for path in (run / "model", tmp_path / "student", tmp_path / "cache" / "tokens" / "x.npy"):
        left_behind(path, monkeypatch, DEAD).mkdir(parents=True)
        path.mkdir()
    (run / "record.damaged-0.json").touch()
    Store(tmp_path).prepare()
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {
        "runs", "runs/a", "runs/a/model", "runs/a/record.damaged-0.json", "student", "cache",
        "cache/tokens", "cache/tokens/x.npy",
    }  # fmt: skip


def odd_paths(folder: Path) -> dict[str, Path]:
    """A path of each kind that is no file, and links to two of them."""
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "behind")
    (folder / "link").symlink_to(folder / "behind")
    (folder / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(folder):
        made.bind("socket")  # a whole path may be longer than a socket's may be
    return {
        "a pipe": folder / "pipe", "a folder": folder / "folder", "a socket": folder / "socket",
        "a device": Path("/dev/zero"),
    }  # fmt: skip


def test_what_is_no_file_is_told_and_not_waited_for(tmp_path):
    for kind, path in odd_paths(tmp_path).items():
        assert odd_kind(path) == kind
        for read in (open_file, read_bytes, read_text):
            with pytest.raises(OSError, match=f"it is {kind}, and a file is expected"):
                read(path)
    assert odd_kind(tmp_path / "link") == "a pipe"


def test_a_file_is_read_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a"
    path.write_bytes("\ufeffé\r\n".encode())
    assert odd_kind(path) is None
    assert read_text(path) == "é\r\n"
    assert read_bytes(path) == path.read_bytes()
    assert read_bytes(path, largest=7) == path.read_bytes()
    with pytest.raises(UnusableFile, match="larger than"):
        read_bytes(path, largest=6)
    path.write_bytes(b"ok \xff")
    with pytest.raises(UnusableFile, match="not UTF-8: invalid start byte at byte 3"):
        read_text(path)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "nothing")


@pytest.mark.parametrize("exchange", [True, False], ids=["exchanged", "moved away first"])
def test_a_folder_is_the_old_or_the_new_one_wherever_its_process_is_killed(
    tmp_path, monkeypatch, exchange
):
    """Without an exchange of names, as on other systems, there may be none for a moment."""
    path = tmp_path / "model"
    if not exchange:
        monkeypatch.setattr(files, "_exchanged", lambda one, other: False)

    def write(*names: str) -> None:
        with whole_folder(path) as folder:
            (folder / "in").mkdir()
            for name in names:
                (folder / "in" / name).write_text(name)

    def look(n: int) -> None:
        found = {p.name: p.read_text() for p in path.rglob("*") if p.is_file()}
        assert found in ({"a": "a", "b": "b"}, {"c": "c"}) or (not exchange and not path.exists())
        write("a", "b")
        assert [p.name for p in tmp_path.iterdir()] == ["model"], "something is left behind"

    write("a", "b")
    assert killed_at_every_change(lambda: write("c"), look) > 5


def test_a_folder_takes_the_place_of_what_a_link_leads_to_and_never_that_of_a_file(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "file").write_text("mine")
    with whole_folder(tmp_path / "link") as folder:
        (folder / "a").write_text("a")
    assert (tmp_path / "link").is_symlink()
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["a"]
    with pytest.raises(UnusableFile, match="no folder"), whole_folder(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 3
