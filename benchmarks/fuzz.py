"""Damaged and hostile inputs for everything that reads what a stranger wrote.

Tables, study files, records, exports, foreign results, requests and model folders are changed at
random, byte by byte or value by value. Only kdlora's own errors may come out, within a bounded
time and memory. Inputs that once broke a reader are kept in `corpus/`, a folder a reader, and come
first.
"""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.results import write_results
from kdlora.errors import KdloraError

CORPUS = Path(__file__).resolve().parent / "corpus"
LIMIT_S = 5.0  # of processor time for one input; beyond it the reader hangs
WAIT_S = 600.0  # of anything, however busy the machine is, and however long it is stopped
MEMORY_MB = 500  # of a process in all, with the libraries that its readers load
# Modules of targets, each tried in processes that load no more than its readers need.
GROUPS = ("benchmarks.fuzz_targets", "benchmarks.fuzz_models")
_DEEP = 3000
PIECE = 20_000  # inputs; so many at most are lost where the whole is killed
MEMORY_DISK = Path("/dev/shm")  # what is laid there is written and deleted a million times

Read = Callable[[bytes, Path], Any]  # an input, and an empty folder to lay it in
Tried = Callable[[int], None]


@dataclass(frozen=True)
class Target:
    """Something that reads strangers' bytes, and sound inputs to begin from."""

    name: str
    read: Read
    sound: tuple[bytes, ...]
    share: float = 1.0  # of the inputs that a quick target gets


@dataclass
class Tally:
    """What became of the inputs of one target."""

    name: str
    inputs: int = 0
    taken: int = 0
    refused: int = 0
    tracebacks: int = 0
    hangs: int = 0
    slowest_ms: float = 0.0
    grown_mb: float = 0.0  # what the process's largest memory grew by, while this was tried
    process_mb: float = 0.0  # that memory, or that of the process it is a copy of if larger


class Hang(BaseException):
    """An input took longer than `LIMIT_S`; no reader's `except Exception` may catch it."""


def measure(folder: Path, **asked: Any) -> list[Tally]:
    """What became of the inputs that are asked for as in `tallies`."""
    return list(tallies(folder, **asked))


def tallies(
    folder: Path,
    *,
    inputs: int,
    seed: int = 0,
    only: tuple[str, ...] = (),
    keep: Path | None = None,
    after: str | None = None,
    tried: Tried = lambda i: None,
    made: Sequence[Target] = (),
    host_mb: float | None = None,
) -> Iterator[Tally]:
    """Try `inputs` inputs over all targets, the kept ones first; a tally for each target.

    What breaks a reader is written below `keep`, with its traceback beside it. `tried` is told the
    number of each input of a target beforehand. Targets up to `after` are left out. `made` are the
    targets, where they are made already: it takes seconds. `host_mb` is the largest memory of the
    process that this one was forked from for the readers alone.
    """
    targets = _chosen(made or _make(folder / "sound"), only)
    whole = sum(t.share for t in targets)
    names = [t.name for t in targets]
    for target in targets[0 if after is None else names.index(after) + 1 :]:
        tried(-1)
        for sound in target.sound:  # or nothing would be tried but the first refusal
            target.read(sound, _emptied(folder / "work"))
        tally = Tally(target.name)
        before = _largest_mb()
        kept = _kept(target)
        for i in range(max(1, round(inputs * target.share / whole))):
            tried(i)
            _try(target, _content(target, kept, seed, i), folder / "work", tally, keep)
        tally.grown_mb = round(_largest_mb() - before, 1)
        if host_mb is not None:  # of what a copy has not touched yet, it has no page of its own
            tally.process_mb = round(max(host_mb, _largest_mb()), 1)
        yield tally


def _make(folder: Path) -> list[Target]:
    return [t for group in GROUPS for t in _make_group(group, folder / group)]


def _make_group(group: str, folder: Path) -> list[Target]:
    folder.mkdir(parents=True)
    made: list[Target] = import_module(group).make_targets(folder)
    return made


def _chosen(targets: Sequence[Target], only: tuple[str, ...]) -> list[Target]:
    return [target for target in targets if not only or target.name in only]


def _kept(target: Target) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / target.name).glob("*"))]


def _content(target: Target, kept: list[bytes], seed: int, i: int) -> bytes:
    if i < len(kept):
        return kept[i]
    rng = random.Random(f"{seed} {target.name} {i}")
    return damaged(rng.choice(target.sound), rng)


def watched(folder: Path, **asked: Any) -> list[Tally]:
    """`measure` in a process of its own, which is ended where it stands still or gives up.

    So what no exception can end (a loop in a library's C code, a crash, too much memory) is the
    fault of one input, with which the target's tally ends.
    """
    context = multiprocessing.get_context("fork")  # what is loaded and made is so only once
    asked["made"] = asked.get("made") or _make(folder / "sound")
    asked["host_mb"] = _largest_mb()
    found: list[Tally] = []
    ended = False
    while not ended:
        receiver, sender = context.Pipe(duplex=False)
        at = context.RawValue("q", -1)
        after = found[-1].name if found else None
        process = context.Process(target=_send, args=(folder, sender, at, after, asked))
        process.start()
        sender.close()
        how = None
        while how is None:
            before = at.value
            if not receiver.poll(2 * WAIT_S):
                how = "it hung beyond every exception" if at.value == before else None
                continue
            try:
                message = receiver.recv()
            except EOFError:
                process.join()
                how = "" if ended else f"the process ended with {process.exitcode}"
            else:
                ended = message is None
                found += [message] if message else []
        process.kill()
        process.join()
        if how and not ended:
            found.append(_fatal(at.value, how, after=found, asked=asked))
    return found


def _send(folder: Path, sender: Connection, at: Any, after: str | None, asked: Any) -> None:
    """In the process of its own: the tallies, then None."""

    def tried(i: int) -> None:
        at.value = i

    for tally in tallies(folder, after=after, tried=tried, **asked):
        sender.send(tally)
    sender.send(None)


def _fatal(i: int, how: str, *, after: list[Tally], asked: Any) -> Tally:
    """The tally of the target that ended the process; its input is kept."""
    seed, keep = asked.get("seed"), asked.get("keep")
    target = _chosen(asked["made"], asked.get("only") or ())[len(after)]
    if keep is not None:
        content = _content(target, _kept(target), seed or 0, max(i, 0))
        _keep(keep / target.name, f"{i + 1}", content, how)
    return Tally(target.name, inputs=i + 1, hangs=1)


def _try(target: Target, content: bytes, work: Path, tally: Tally, keep: Path | None) -> None:
    _emptied(work)
    tally.inputs += 1
    began = time.process_time()
    fault = ""
    try:
        with _limited():
            target.read(content, work)
        tally.taken += 1
    except KdloraError:
        tally.refused += 1
    except Hang:
        tally.hangs += 1
        fault = "it hung"
    except Exception:
        tally.tracebacks += 1
        fault = traceback.format_exc()
    tally.slowest_ms = max(tally.slowest_ms, round(1e3 * (time.process_time() - began), 1))
    if fault and keep is not None:
        _keep(keep / target.name, f"{tally.inputs}", content, fault)


def _keep(place: Path, name: str, content: bytes, fault: str) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_bytes(content)
    (place / f"{name}.txt").write_text(fault, encoding="utf-8")


def _emptied(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
    return folder


@contextmanager
def _limited() -> Iterator[None]:
    """Raise Hang in this block after `LIMIT_S` of work, or `WAIT_S` of waiting."""

    def late(number: int, frame: FrameType | None) -> None:
        raise Hang

    limits = ((signal.ITIMER_PROF, signal.SIGPROF, LIMIT_S),
              (signal.ITIMER_REAL, signal.SIGALRM, WAIT_S))  # fmt: skip
    before = [signal.signal(number, late) for _, number, _ in limits]
    for timer, _, seconds in limits:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (timer, number, _), old in zip(limits, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, old)


def _largest_mb() -> float:
    """The largest memory of this process; what started it may have had more (`ru_maxrss`)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def damaged(sound: bytes, rng: random.Random) -> bytes:
    """The input with one to four things changed in it: values where it is JSON, else bytes."""
    if rng.random() < 0.6 and (changed := _values_changed(sound, rng)) is not None:
        return changed
    content = bytearray(sound)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(content) + 1)
        match rng.randrange(6):
            case 0 if at < len(content):
                content[at] ^= 1 << rng.randrange(8)
            case 1:
                content[at:at] = rng.choice(_NASTY)
            case 2:
                del content[at : at + rng.choice((1, 2, 8, 100))]
            case 3:
                content[at : at + 4] = rng.randbytes(rng.randint(0, 6))
            case 4:
                del content[at:]
            case _:
                end = at + rng.choice((1, 10, 200))
                content[at:at] = content[at:end] * rng.choice((1, 3, 50))
    return bytes(content)


def _values_changed(sound: bytes, rng: random.Random) -> bytes | None:
    """JSON with values replaced, removed or added at any depth; None where it is no JSON."""
    lines = sound.strip().split(b"\n")
    at = rng.randrange(len(lines))
    whole = sound.lstrip()[:1] in b"{[" and lines[0].strip() in (b"{", b"[")
    try:
        values = json.loads(sound if whole or len(lines) == 1 else lines[at])
    except ValueError:
        return None
    for _ in range(rng.randint(1, 4)):
        inside = rng.choice(_containers(values) or [values])
        key = None
        if isinstance(inside, dict):
            key = rng.choice([*inside, rng.choice(_NAMES)])
        elif isinstance(inside, list):
            key = rng.randrange(len(inside)) if inside else None
        if key is None:
            values = copy.deepcopy(rng.choice(_JUNK))
        elif rng.random() < 0.2 and (isinstance(inside, list) or key in inside):
            del inside[key]
        else:
            inside[key] = copy.deepcopy(rng.choice(_JUNK))
    changed = json.dumps(values, ensure_ascii=rng.random() < 0.5)
    text = changed.encode("utf-8", "surrogatepass")
    if whole or len(lines) == 1:
        return text
    return b"\n".join([*lines[:at], text, *lines[at + 1 :]])


def _containers(values: Any) -> list[Any]:
    found, todo = list[Any](), [values]
    while todo:
        value = todo.pop()
        if isinstance(value, dict | list) and len(found) < 500:
            found.append(value)
            todo += value.values() if isinstance(value, dict) else value
    return found


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


_JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 10**6, 2**31, 2**63, 10**30, -(10**30), 0.5, -0.0, 1e308,
    float("nan"), float("inf"), "", " ", "0", "1,5", "nan", "a" * 300, "x" * 70_000, "\ud800",
    "\0", "../x", "/etc/passwd", "none", "kd", "lora", "student/kd-lora", "é\u200b", "=1+1", [],
    {}, [[]], [None], [1, 2], ["a", "a"], {"": 0}, {"a": {"a": 1}}, _nested(90), _nested(200),
)  # fmt: skip
_NAMES = ("", "x", "name", "id2label", "task", "run", "seed", "a" * 300, "\ud800", "checksum")
_NASTY = (
    b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\xef\xbb\xbf", b'"', b'""', b"\t", b"\r", b"\r\n", b"\n",
    b",", b"[" * _DEEP, b'{"a":' * _DEEP, b"false\n", b"null", b"1e999", b"9" * 5000, b"&a [*a]",
    b"!!python/object/apply:os.system ['true']", b"- " * 500, b": ", b"a" * 300, b"\\ud800",
)  # fmt: skip


def page(sums: list[Tally], pieces: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    last = pieces[-1]
    lines = [
        "# Damaged and hostile inputs",
        "",
        f"{sum(t.inputs for t in sums):,} inputs in {len(pieces)} piece{'s' * (len(pieces) > 1)}, "
        f"each with a seed of its own, {last['machine']}, {last['date']}, "
        f"{sum(piece['minutes'] for piece in pieces):.0f} minutes. Made by "
        "`python -m benchmarks fuzz`.",
        "",
        "An input is taken, or refused with one of kdlora's own errors; a traceback, the end of "
        f"the process or more than {LIMIT_S:g} s of processor time is a fault, and so is a process "
        f"of more than {MEMORY_MB} MB. Growth is what the process's largest memory grew by while "
        f"the reader was tried, in the piece where it grew most. {_of_memory(sums, pieces)}",
        "",
        "| what reads | inputs | taken | refused | tracebacks | hangs | slowest, ms | growth, MB "
        "| process, MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for t in sums:
        lines.append(
            f"| {t.name} | {t.inputs:,} | {t.taken:,} | {t.refused:,} | {t.tracebacks} | {t.hangs} "
            f"| {t.slowest_ms:,.0f} | {t.grown_mb:,.0f} "
            f"| {f'{t.process_mb:,.0f}' if t.process_mb else 'not measured'} |"
        )
    return "\n".join(lines) + "\n"


def _of_memory(sums: list[Tally], pieces: list[dict[str, Any]]) -> str:
    """Of how much the memory of whole processes is known: older pieces did not keep it."""
    those = [p for p in pieces if any(row.get("process_mb") for row in p["targets"])]
    if not those:
        return "The memory of the whole process was not kept."
    tried = sum(row["inputs"] for piece in those for row in piece["targets"])
    whole = "" if len(those) == len(pieces) else f", of {tried:,} of the inputs"
    return (
        f"The process is its largest memory in all, libraries included{whole}: "
        f"{max(t.process_mb for t in sums):,.0f} MB at most. Models are loaded in processes of "
        "their own, the others hold no torch."
    )


def faults(sums: list[Tally]) -> list[str]:
    """What must not be, in sentences."""
    found = [
        f"{t.name}: {t.tracebacks} tracebacks, {t.hangs} hangs"
        for t in sums
        if t.tracebacks or t.hangs
    ]
    found += [
        f"{t.name}: the process took {t.process_mb:,.0f} MB"
        for t in sums
        if t.process_mb > MEMORY_MB
    ]
    grown = sum(t.grown_mb for t in sums)
    return [*found, *([f"memory grew by {grown:.0f} MB"] if grown > MEMORY_MB else [])]


def run(
    inputs: int,
    *,
    seed: int | None = None,
    only: tuple[str, ...],
    keep: Path,
    lines: Path,
    out: Path,
    minutes: float = 30.0,
) -> list[str]:
    """Measure pieces until so many inputs or minutes are over, and write the table of all.

    Each piece is a line in the file `lines`, with a seed of its own: called again, the script goes
    on with the next one and adds to what was tried before. Returns the faults.
    """
    began = time.monotonic()
    lines.parent.mkdir(parents=True, exist_ok=True)
    before = pieces_in(lines)
    if seed is None:
        seed = 1 + max((piece["seed"] for piece in before), default=-1)
    place = MEMORY_DISK if os.access(MEMORY_DISK, os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(dir=place) as folder,
        _hosts(Path(folder), only) as hosts,
    ):
        shares = [host.recv() for host in hosts]
        for piece in range(-(-inputs // PIECE)):
            if time.monotonic() - began > 60 * minutes:
                break
            number = min(PIECE, inputs - piece * PIECE)
            started = time.monotonic()
            found = []
            for host, share in zip(hosts, shares, strict=True):
                part = round(number * share / sum(shares))
                host.send({"inputs": part, "seed": seed + piece, "keep": keep})
                found += host.recv()
            about = {
                "date": f"{datetime.now(UTC):%Y-%m-%d}",
                "machine": f"{os.cpu_count()} processors, {platform.machine()}",
                "seed": seed + piece,
                "minutes": round((time.monotonic() - started) / 60, 2),
            }
            line = json.dumps(about | {"targets": [asdict(t) for t in found]})
            with lines.open("a", encoding="utf-8") as file:
                file.write(f"\n{line}\n")  # after one that was not written whole, too
    pieces = pieces_in(lines)
    sums = summed(pieces)
    text = page(sums, pieces)
    write_results(out, "fuzz", {"pieces": len(pieces), "targets": list(map(asdict, sums))}, text)
    print(text)
    return faults(sums)


@contextmanager
def _hosts(folder: Path, only: tuple[str, ...]) -> Iterator[list[Connection]]:
    """A process for each group, which loads what its readers need; to each a connection.

    It tells the sum of its targets' shares first, and then, to what `watched` is asked, the tallies
    of them; None ends it.
    """
    context = multiprocessing.get_context("spawn")  # what is loaded here is not loaded there
    connections, processes = [], []
    try:
        for group in GROUPS:
            ours, theirs = context.Pipe()
            process = context.Process(target=_host, args=(theirs, group, folder / group, only))
            process.start()
            theirs.close()
            connections.append(ours)
            processes.append(process)
        yield connections
        for connection in connections:
            connection.send(None)
    finally:
        for connection in connections:
            connection.close()
        for process in processes:
            process.join()


def _host(connection: Connection, group: str, folder: Path, only: tuple[str, ...]) -> None:
    made = _chosen(_make_group(group, folder), only)
    connection.send(sum(target.share for target in made))
    with suppress(EOFError):
        for asked in iter(connection.recv, None):
            connection.send(watched(folder, made=made, **asked) if made else [])


def pieces_in(lines: Path) -> list[dict[str, Any]]:
    """What the file of lines holds; a last line that is not whole was being written."""
    found = []
    for line in lines.read_text(encoding="utf-8").splitlines() if lines.exists() else ():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def summed(pieces: list[dict[str, Any]]) -> list[Tally]:
    """What became of the inputs of all pieces, by target."""
    found: dict[str, Tally] = {}
    for row in (row for piece in pieces for row in piece["targets"]):
        own = found.setdefault(row["name"], Tally(row["name"]))
        for name in ("inputs", "taken", "refused", "tracebacks", "hangs"):
            setattr(own, name, getattr(own, name) + row[name])
        for name in ("slowest_ms", "grown_mb", "process_mb"):
            setattr(own, name, max(getattr(own, name), row.get(name, 0.0)))
    return list(found.values())
