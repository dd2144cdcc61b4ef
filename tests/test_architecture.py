"""The one-way flow, and commands that start without torch."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from kdlora.vocabulary.metric import METRICS
from tests.harness.stored_studies import ERROR, same_on_both, store_study

ROOT = Path(__file__).resolve().parent.parent
# Pieces of an arm's text, of which one is put together or by which one is taken apart; and "/" or
# "[" where they split a text.
PIECE = re.compile(r"(^|/)kd-$|^/?kd-\w|^(teacher|student|baseline)/($|\w)")
NO_ARMS = {"mirrors/entries.py": ("teacher/",)}  # names of metrics in a tracker
SPLITS = ("partition", "rpartition", "split", "replace", "removeprefix", "startswith")


def test_a_package_imports_only_from_those_before_it():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_commands_that_train_nothing_do_not_import_torch():
    """One after the other in one process, which is asked after each."""
    commands = (["--help"], ["plan", "demo"], ["plan", "demo", "--json"])
    code = (
        "import json, sys; from kdlora.cli import main\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    code = None\n"
        "    try: main(arguments)\n"
        "    except SystemExit as end: code = end.code\n"
        "    heavy = {'torch', 'transformers', 'pandas', 'sklearn', 'peft'} & set(sys.modules)\n"
        "    print('HEAVY', arguments, sorted(heavy), code or 0, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    for arguments in commands:
        assert f"HEAVY {arguments} [] 0" in done.stderr, done.stderr


def test_the_results_so_far_are_shown_without_statistics_and_charts(tmp_path):
    store = store_study(tmp_path, same_on_both(lambda run: 0.8), flagged=lambda run: [ERROR])
    for record in list(tmp_path.glob("runs/*/record.json"))[1:]:
        record.unlink()  # so that all that `kdlora status` has to say is said
    code = (
        "import sys; from kdlora.cli import main\n"
        "try: main(['status', sys.argv[1]])\n"
        "except SystemExit: pass\n"
        "heavy = {'scipy', 'statsmodels', 'altair', 'vl_convert', 'jinja2', 'torch'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, store.root], capture_output=True, text=True, check=True
    )
    for part in ("Runs by model and task", "80.0", "Read with care", "HEAVY []"):
        assert part in done.stdout


def test_importing_the_package_is_light():
    code = "import sys, kdlora; kdlora.distil; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_public_names_exist():
    import kdlora

    for name in kdlora.__all__:
        assert callable(getattr(kdlora, name))
        # a package of the same name would take the function's place once it is imported
        assert not (Path(kdlora.__file__).parent / name).exists()
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        kdlora.nonsense  # noqa: B018


def test_the_evidence_wing_imports_nothing_that_trains():
    """Every module of it, in one process: a report needs no torch."""
    code = (
        "import importlib, pkgutil, sys\n"
        "for name in ('records', 'importing', 'evidence', 'choice', 'report'):\n"
        "    package = importlib.import_module(f'kdlora.{name}')\n"
        "    for module in pkgutil.walk_packages(package.__path__, f'{package.__name__}.'):\n"
        "        importlib.import_module(module.name)\n"
        "        heavy = {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
        "        assert not heavy, (module.name, heavy)\n"
        "print('kdlora.report.build' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize("package", ["records", "evidence", "choice", "report"])
def test_no_circular_import_is_hidden_from_the_running_program(package):
    hidden = [
        path.name
        for path in (ROOT / "src" / "kdlora" / package).rglob("*.py")
        if "TYPE_CHECKING" in path.read_text(encoding="utf-8")
    ]
    assert hidden == []


@cache
def parsed(source: str) -> ast.Module:
    """A module's tree: several tests walk through all modules."""
    return ast.parse(source)


@cache
def nodes(source: str) -> tuple[ast.AST, ...]:
    """Every node of a module's tree: to walk through it takes as long as to parse it."""
    return tuple(ast.walk(parsed(source)))


def texts_of(source: str) -> Iterator[ast.Constant]:
    """Every text of a module that is no docstring."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in nodes(source)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in nodes(source):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in docstrings:
            yield node


def arms_by_hand(source: str, *, whole_allowed: bool = False) -> list[str]:
    """Where a module takes an arm's text apart, or puts one together, by its own means.

    `whole_allowed`: it may name arms ("teacher/fft"), as the published studies do.
    """
    found = [
        f"line {text.lineno}: {text.value!r}"
        for text in texts_of(source)
        if PIECE.search(text.value)
        and "*" not in text.value  # a pattern, as users write them
        and not (whole_allowed and text.value[-1] not in "/-")
    ]
    for node in nodes(source):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        given = [a.value for a in node.args if isinstance(a, ast.Constant)]
        if node.func.attr not in SPLITS or all(str(v)[:1] not in ("/", "[", "]") for v in given):
            continue
        if re.search(r"\b(arm|title|base_arm|c\.[ab])$", ast.unparse(node.func.value)):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def metric_tables(source: str) -> list[str]:
    """Where a module lists two metrics or more by name, or keeps something for each of them."""
    found = []
    for node in nodes(source):
        if isinstance(node, ast.Dict):
            items = node.keys
        elif isinstance(node, ast.Tuple | ast.List | ast.Set):
            items = list(node.elts)
        else:
            continue
        names = {i.value for i in items if isinstance(i, ast.Constant)} & set(METRICS)
        if len(names) > 1:
            found.append(f"line {node.lineno}: {', '.join(sorted(names))}")
    return found


def modules_beside(home: str) -> Iterator[tuple[str, Path]]:
    """Every module of both packages but one, under its path within the package."""
    for package in ("kdlora", "kdlora_reproductions"):
        for path in sorted((ROOT / "src" / package).rglob("*.py")):
            name = path.relative_to(ROOT / "src" / package).as_posix()
            if name != home:
                yield name, path


def test_an_arm_is_written_and_read_in_one_module_alone():
    broken = {}
    for name, path in modules_beside("vocabulary/arm.py"):
        published = "kdlora_reproductions" in path.parts
        source = path.read_text(encoding="utf-8")
        allowed = NO_ARMS.get(name, ())
        found = arms_by_hand(source, whole_allowed=published)
        if left := [f for f in found if not any(f.endswith(repr(text)) for text in allowed)]:
            broken[name] = left
    assert broken == {}, "ask kdlora.vocabulary.arm.Arm instead"


@pytest.mark.parametrize(
    "line",
    [
        'kd = [a for a in arms if a.startswith("student/kd-")]',
        'teachers = [a for a in arms if a.startswith("teacher/")]',
        'name = f"baseline/{kind}"',
        'plain = text.replace("/kd-", "/", 1)',
        'rest = name.removeprefix("kd-")',
        'first = "teacher/given"',
        'role, _, rest = run.arm.partition("/")',
        'base = arm.split("[")[0]',
    ],
)
def test_an_arm_that_is_read_by_hand_is_seen(line):
    assert arms_by_hand(line)
    assert not arms_by_hand(f'"""{line}"""'.replace('""""', '"""'))


def test_the_facts_of_metrics_stand_in_one_module_alone():
    broken = {
        name: found
        for name, path in modules_beside("vocabulary/metric.py")
        if (found := metric_tables(path.read_text(encoding="utf-8")))
    }
    assert broken == {}, "ask kdlora.vocabulary.metric.metric(name) instead"


@pytest.mark.parametrize(
    "line",
    [
        'POINTS = frozenset({"accuracy", "f1"})',
        'DIRECTION = {"accuracy": 1, "rmse": -1}',
        'correlation = metric in ("pearson", "spearman")',
        'shown = ["ece", "matthews"]',
    ],
)
def test_a_table_of_metrics_is_seen(line):
    assert metric_tables(line)


SHAPE_OF_LABELS = re.compile(r"(labels|truth|gold)\.ndim|ndim\((\w+\.)?(labels|truth|gold)\)")


def test_several_labels_are_told_by_the_kind_of_task_and_by_a_shape_in_one_place_alone():
    found = [
        name
        for name, path in modules_beside("vocabulary/label_metrics.py")
        if SHAPE_OF_LABELS.search(path.read_text(encoding="utf-8"))
    ]
    assert found == ["measure/quality.py"], "ask the kind; quality.checked says what does not fit"
    assert SHAPE_OF_LABELS.search("if own.labels.ndim == 2:")
    assert SHAPE_OF_LABELS.search("np.ndim(rows.labels)")


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """What a caller gives; `self` and `cls` are not given."""
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


def is_public_or_prescribed(module: str, function: str, bases: list[str]) -> bool:
    """The Python API, the commands with their options, and what torch prescribes."""
    import kdlora
    from kdlora.cli.app import app

    public = {getattr(kdlora, name) for name in kdlora.__all__}
    public |= {command.callback for command in app.registered_commands}
    named = {(one.__module__, one.__name__) for one in public}
    in_api = module == "kdlora.api" and not function.startswith("_")
    prescribed = function == "forward" and {"Function", "torch.autograd.Function"} & {*bases}
    return (module, function) in named or in_api or bool(prescribed)


def test_options_travel_as_one_object():
    """No function takes more than eight parameters but those that a user calls."""
    problems = []
    for file in sorted((ROOT / "src").rglob("*.py")):
        module = ".".join(file.relative_to(ROOT / "src").with_suffix("").parts)
        for parent in nodes(file.read_text(encoding="utf-8")):
            bases = [ast.unparse(base) for base in getattr(parent, "bases", [])]
            for node in ast.iter_child_nodes(parent):
                if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    continue
                exempt = is_public_or_prescribed(module, node.name, bases)
                if (n := len(parameters(node))) > 8 and not exempt:
                    problems.append(f"{module}.{node.name} takes {n}")
    assert problems == []


def test_the_report_tests_and_pairs_nothing_itself():
    """Its numbers and verdicts come from `evidence` and `choice`; it words and draws them."""
    barred = ("scipy", "statsmodels", *(
        f"kdlora.evidence.{name}" for name in (
            "aggregates", "estimator", "intervals", "mixed_model", "paired_tests", "pairing",
            "power", "prediction_tests", "score_draws", "scores", "verdicts",
        )
    ))  # fmt: skip
    found = []
    for path in sorted((ROOT / "src" / "kdlora" / "report").rglob("*.py")):
        for node in nodes(path.read_text(encoding="utf-8")):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            found += [f"{path.name}: {m}" for m in modules if m.startswith(barred)]
    assert not found


# What they open is no path of a user's: the system's own files, and those that come with kdlora.
OWN_FILES = {
    "machine.py", "measure/efficiency.py", "measure/energy.py", "planning/costs.py",
    "training/precision.py", "serve/app.py", "spec/presets/__init__.py",
    "importing/mapping.py", "tables.py",
}  # fmt: skip


def files_read(source: str) -> list[str]:
    """Where a module reads a file itself."""
    found = []
    for node in nodes(source):
        if not isinstance(node, ast.Call):
            continue
        method = node.func.attr if isinstance(node.func, ast.Attribute) else None
        plain = isinstance(node.func, ast.Name) and node.func.id == "open"
        modes = [k.value for k in node.keywords if k.arg == "mode"] + node.args[plain : plain + 1]
        known = [m.value for m in modes if isinstance(m, ast.Constant) and isinstance(m.value, str)]
        opens = (method == "open" or plain) and (
            not modes or any("r" in mode and "+" not in mode for mode in known)
        )
        if opens or method in ("read_text", "read_bytes"):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_what_is_read_is_opened_in_one_module_alone():
    """There it is seen first whether it is a file: a pipe would be waited for without end."""
    found = {
        f"{name}, {place}"
        for name, path in modules_beside("files.py")
        if name not in OWN_FILES
        for place in files_read(path.read_text(encoding="utf-8"))
    }
    assert not found, "use files.open_file, read_bytes or read_text"


@pytest.mark.parametrize(
    "line", ["path.open()", "path.open('rb')", "open(path)", "open(path, mode='rb')",
             "path.read_bytes()", "(folder / 'x').read_text()"],
)  # fmt: skip
def test_a_file_that_is_read_elsewhere_is_seen(line):
    assert files_read(line)
    assert not files_read("path.open('wb'); open(path, 'w'); read_text(path); os.open(path, flags)")


def printed(source: str) -> list[str]:
    """Where a module writes to a terminal itself, or takes texts for markup."""
    found = []
    for node in nodes(source):
        called = isinstance(node, ast.Call) and ast.unparse(node.func)
        if called in ("print", "Console", "escape", "typer.echo", "sys.stdout.write"):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_commands_write_to_a_terminal_through_one_module_alone():
    """There no character of a stranger's text is markup, or obeyed by the terminal."""
    found = {
        f"{name}, {place}"
        for name, path in modules_beside("cli/terminal.py")
        if name.startswith("cli/") or name == "report/render/terminal.py"
        for place in printed(path.read_text(encoding="utf-8"))
    }
    assert not found, "use say, say_json, say_data and terminal of cli.terminal"
    assert printed("print(x)")
    assert printed("console = Console(markup=False)")


QUOTED = re.compile(r"(?<!`)`([A-Za-z_]\w*(?:\.\w+)*)(?:\([^`]*\))?`(?!`)")  # `a.b` or `a(x)`
ENDINGS = {"csv", "html", "json", "md", "parquet", "pt", "py", "tex", "toml", "yaml"}  # of files
FOREIGN = {"auto_map", "scaled_dot_product_attention"}  # of transformers and torch


def docstrings(source: str) -> Iterator[str]:
    for node in nodes(source):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def defined_in(module: Path) -> set[str]:
    """What a module defines or assigns, within its classes too; what a package hands on."""
    found = set()
    for node in nodes(module.read_text(encoding="utf-8")):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.alias) and module.name == "__init__.py":
            found.add(node.asname or node.name)
    return found


def words_of(source: str) -> set[str]:
    """Every name that a module's code uses, and the words of its texts; docstrings apart."""
    found = {word for text in texts_of(source) for word in re.findall(r"\w+", text.value)}
    for node in nodes(source):
        for field in ("name", "id", "attr", "arg", "module", "asname"):
            if isinstance(value := getattr(node, field, None), str):
                found |= {*value.split(".")}
    return found


def module_at(place: Path, parts: list[str]) -> tuple[Path, list[str]] | None:
    """The deepest module that a dotted name leads to from a folder, and what follows it."""
    for n in range(len(parts), 0, -1):
        path = place.joinpath(*parts[:n])
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                return file, parts[n:]
    return None


def leads_nowhere(name: str, package: Path) -> bool:
    """Whether a dotted name begins with a module, of kdlora or beside its reader's own, and goes on
    to what is not there.

    A column such as `report.accuracy` and a file such as `report.html` are no such names.
    """
    parts = name.removeprefix("kdlora.").split(".")
    if len(parts) == 1 or parts[-1] in ENDINGS or (parts[0] == "report" and parts[-1] in METRICS):
        return False
    found = module_at(ROOT / "src" / "kdlora", parts) or module_at(package, parts)
    return found is not None and not {*found[1]} <= defined_in(found[0])


def test_docstrings_name_what_there_is():
    sources = {path: path.read_text(encoding="utf-8") for _, path in modules_beside("")}
    words = FOREIGN.union(*map(words_of, sources.values()))
    broken = {
        f"{path.relative_to(ROOT)}: {name}"
        for path, source in sources.items()
        for text in docstrings(source)
        for name in QUOTED.findall(text)
        if leads_nowhere(name, path.parent) or ("_" in name and not {*name.split(".")} <= words)
    }
    assert not broken


def test_a_name_that_leads_nowhere_is_seen():
    engines = ROOT / "src" / "kdlora" / "engines"
    for good in ("engines.supervisor.OnEvent", "supervisor.OnEvent", "api.run", "kdlora.engines",
                 "records.leases.Lease.check", "Path.resolve", "report.accuracy", "report.html",
                 "os.link", "OnEvent"):  # fmt: skip
        assert not leads_nowhere(good, engines), good
    # the first is imported there, and defined elsewhere
    for bad in ("engines.local.OnEvent", "supervisor.Nothing", "records.nothing.Lease"):
        assert leads_nowhere(bad, engines), bad
    assert QUOTED.findall("`a.b`, `c_d(x, y)`, ``e`` and `f g`") == ["a.b", "c_d"]
    assert words_of("def a(b): return c.d(e=f, g='h_i')") >= {*"abcdefg", "h_i"}
    assert "nothing" not in words_of('"""Of `nothing`."""')
