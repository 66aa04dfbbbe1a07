"""The rules of the house, checked on the syntax tree: floors, cycles, size, clocks, SQL, names, cost of import.

Every check takes a tree of modules and returns complaints, so that each is proven able to fail on a small made-up tree.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
CEILING = 600

FLOORS: dict[str, int] = {
    **dict.fromkeys(["version", "messages", "specs", "errors", "names", "filters", "codecs", "clock", "events"], 0),
    **dict.fromkeys(
        [
            "archives",
            "arns",
            "audit",
            "checksum",
            "edits",
            "files",
            "letters",
            "looking",
            "moves",
            "queries",
            "stats",
            "texts",
            "webhooks",
        ],
        0,
    ),
    "looking": 0,
    **dict.fromkeys(["outboxes", "protocols", "registry"], 1),
    "state": 2,
    **dict.fromkeys(["embedded", "formats", "sinks"], 3),
    "engine": 4,
    **dict.fromkeys(
        [
            "app",
            "router",
            "outbox",
            "topic",
            "queue",
            "stream",
            "webhook",
            "wiring",
            "binding",
            "context",
            "dead_letters",
            "declarations",
            "middleware",
            "partitioning",
            "tracing",
            "transforms",
        ],
        5,
    ),
    **dict.fromkeys(["server", "console", "cli", "testing", "asgi", "__main__"], 6),
}
"""The floor of every module directly under `pipeflow`, by its name. The package itself is floor 5."""

CONNECTORS = "pipeflow_connectors"
DOORS_NOT_LOADED = (
    "pipeflow.server",
    "pipeflow.console",
    "pipeflow.cli",
    "pipeflow.testing",
    "pipeflow.asgi",
    CONNECTORS,
)
MAY_ASK_THE_TIME = {"pipeflow.clock", "pipeflow.names"}
STARTS_ITS_OWN_TASK = {"pipeflow.embedded.opening"}
"""A store is opened by a call and closed by another, not by a `with` block: one keeper task owns all others."""
SQL_HOME = "pipeflow.embedded.sqlite"
BANNED_MODULES = {"utils", "util", "helpers", "helper", "common", "misc", "base", "impl", "manager"}
BANNED_SUFFIXES = ("Manager", "Helper", "Util", "Utils", "Base", "Impl", "Usecase", "Data", "Info")
SQL = re.compile(
    r"\s*(SELECT\s|INSERT\s+(OR\s+\w+\s+)?INTO\s|UPDATE\s+\w+\s+SET\s|DELETE\s+FROM\s|CREATE\s+(TABLE|INDEX|UNIQUE)\s|PRAGMA\s|"
    r"BEGIN\s+IMMEDIATE|DROP\s+TABLE\s)"
)


class Module(NamedTuple):
    name: str
    path: Path
    lines: int
    tree: ast.Module


Tree = dict[str, Module]


def read_tree(root: Path) -> Tree:
    """Every module of the two import packages under a project root."""
    found: Tree = {}
    for home in (root / "pipeflow", root / "connectors" / CONNECTORS):
        for path in sorted(home.rglob("*.py")):
            parts = list(path.relative_to(home.parent).with_suffix("").parts)
            if parts[-1] == "__init__":
                parts.pop()
            text = path.read_text()
            found[".".join(parts)] = Module(".".join(parts), path, len(text.splitlines()), ast.parse(text))
    return found


def imports(module: Module, tree: Tree, *, executed: bool = False) -> Iterator[tuple[str, int]]:
    """(module of the tree, line) for every import in the module, also those inside functions.

    `executed` leaves out those under `if TYPE_CHECKING`, which no program ever runs.
    """
    is_package = module.path.name == "__init__.py"
    for node in walk(module.tree, executed=executed):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.name.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base] if base else parts)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner if inner in tree else base), node.lineno


def walk(tree: ast.AST, *, executed: bool) -> Iterator[ast.AST]:
    """Every node; with `executed`, only those outside `if TYPE_CHECKING`."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        typing_only = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        if isinstance(node, ast.If) and typing_only and executed:
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def floor_of(name: str) -> int | None:
    """The floor of a module by its full name; None when it is not ours."""
    parts = name.split(".")
    if parts[0] == CONNECTORS:
        return 3
    if parts[0] != "pipeflow":
        return None
    return FLOORS.get(parts[1], -1) if len(parts) > 1 else 5


def unknown_floors(tree: Tree) -> list[str]:
    return [f"{name}: no floor is known for it; name it in FLOORS" for name in tree if floor_of(name) == -1]


def imports_upward(tree: Tree) -> list[str]:
    complaints = []
    for module in tree.values():
        own = floor_of(module.name)
        for target, line in imports(module, tree):
            other = floor_of(target)
            if own is not None and other is not None and other > own:
                complaints.append(f"{module.name}:{line} (floor {own}) imports {target} (floor {other})")
    return complaints


def connectors_beyond_contracts(tree: Tree) -> list[str]:
    return [
        f"{module.name}:{line} imports {target}; a connector sees floors 0 and 1 only"
        for module in tree.values()
        if module.name.split(".")[0] == CONNECTORS
        for target, line in imports(module, tree)
        if target.split(".")[0] == "pipeflow" and (floor_of(target) or 0) > 1
    ]


def engine_knows_a_broker(tree: Tree) -> list[str]:
    return [
        f"{module.name}:{line} imports {target}; the engine sees a broker through the contracts only"
        for module in tree.values()
        if module.name.startswith("pipeflow.engine")
        for target, line in imports(module, tree)
        if target.startswith(("pipeflow.embedded", CONNECTORS))
    ]


def import_cycles(tree: Tree) -> list[str]:
    edges = {
        name: {target for target, _ in imports(module, tree, executed=True) if target in tree}
        for name, module in tree.items()
    }
    done: set[str] = set()
    complaints: list[str] = []

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            complaints.append(" > ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for target in sorted(edges[name] - {name}):
                visit(target, [*path, name])
            done.add(name)

    for name in sorted(tree):
        visit(name, [])
    return complaints


def files_over_the_ceiling(tree: Tree) -> list[str]:
    return [f"{m.name}: {m.lines} lines; at most {CEILING}" for m in tree.values() if m.lines > CEILING]


def clocks_and_chance(tree: Tree) -> list[str]:
    complaints = []
    for module in tree.values():
        if module.name in MAY_ASK_THE_TIME:
            continue
        for node in ast.walk(module.tree):
            found = _asks_for_time_or_chance(node)
            if found is not None:
                complaints.append(f"{module.name}:{found[1]} uses {found[0]}; ask pipeflow.clock or pipeflow.names")
    return complaints


def _asks_for_time_or_chance(node: ast.AST) -> tuple[str, int] | None:
    banned_modules = {"random", "uuid", "secrets"}
    banned_names = {("time", "time"), ("time", "time_ns"), ("os", "urandom")}
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name in banned_modules:
                return alias.name, node.lineno
    if isinstance(node, ast.ImportFrom):
        for alias in node.names:
            if node.module in banned_modules or (node.module, alias.name) in banned_names:
                return f"{node.module}.{alias.name}", node.lineno
    if (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in banned_names
    ):
        return f"{node.value.id}.{node.attr}", node.lineno
    return None


def sql_outside_its_home(tree: Tree) -> list[str]:
    complaints = []
    for module in tree.values():
        if module.name.startswith(SQL_HOME):
            continue
        complaints += [
            f"{module.name}:{node.lineno} holds SQL; it lives in {SQL_HOME}"
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.match(node.value)
        ]
        complaints += [
            f"{module.name}:{line} imports {target}; only {SQL_HOME} does"
            for target, line in imports(module, tree)
            if target in ("sqlite3", "aiosqlite")
        ]
    return complaints


def unowned_tasks(tree: Tree) -> list[str]:
    return [
        f"{module.name}:{node.lineno} calls {node.func.attr}; a task group owns every task"
        for module in tree.values()
        if module.name not in STARTS_ITS_OWN_TASK
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("create_task", "ensure_future")
    ]


def banned_names(tree: Tree) -> list[str]:
    complaints = [
        f"{name}: a module is named for what it is, not {name.rpartition('.')[2]!r}"
        for name in tree
        if name.rpartition(".")[2] in BANNED_MODULES
    ]
    complaints += [
        f"{module.name}:{node.lineno} class {node.name}: say what it is instead"
        for module in tree.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and node.name.endswith(BANNED_SUFFIXES)
    ]
    return complaints


def swallowed_exceptions(tree: Tree) -> list[str]:
    return [
        f"{module.name}:{node.lineno} swallows every exception"
        for module in tree.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")))
        and all(isinstance(statement, ast.Pass) for statement in node.body)
    ]


Check = Callable[[Tree], list[str]]
CHECKS: list[Check] = [
    unknown_floors,
    imports_upward,
    connectors_beyond_contracts,
    engine_knows_a_broker,
    import_cycles,
    files_over_the_ceiling,
    clocks_and_chance,
    sql_outside_its_home,
    unowned_tasks,
    banned_names,
    swallowed_exceptions,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_house_keeps_its_rules(check: Check) -> None:
    complaints = check(read_tree(ROOT))
    assert not complaints, "\n".join(complaints)


def test_no_file_of_the_project_is_over_the_ceiling() -> None:
    too_long = [
        f"{path.relative_to(ROOT)}: {lines} lines"
        for folder in ("tests", "benchmarks", "examples", "docs", "connectors", "pipeflow")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (lines := len(path.read_text().splitlines())) > CEILING
    ]
    assert not too_long, "\n".join(too_long)


DECLARED = {"NamedTuple", "Struct"}


def test_what_can_be_compiled_keeps_its_meaning_when_it_is() -> None:
    """Compiled, a class tells msgspec nothing of its fields, and a second `__init__` leaks what the first one made."""
    hook = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]
    complaints = []
    for name in hook["mypyc"]["include"]:
        for node in ast.walk(ast.parse((ROOT / name.lstrip("/")).read_text())):
            match node:
                case ast.ClassDef(bases=bases) if {"Struct", "NamedTuple"} & {
                    ast.unparse(b).split(".")[-1] for b in bases
                }:
                    complaints.append(f"{name}: {node.name} belongs into a module that is not compiled")
                case ast.Attribute(value=ast.Name("self"), attr="__init__"):
                    complaints.append(f"{name}:{node.lineno}: give what begins anew a method of its own")
    assert not complaints, "\n".join(complaints)


def test_nothing_compiled_lies_beside_the_sources() -> None:
    """It would be imported in their place, however old it is."""
    found = [str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.so"), *(ROOT / "pipeflow").rglob("*.so"))]
    assert not found, f"{found}: git clean -fX '*.so' deletes them"


def test_importing_pipeflow_loads_no_door_and_no_connector() -> None:
    script = "import sys, pipeflow; print(*sorted(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded_doors(ran.stdout.split()) == []


def loaded_doors(modules: list[str]) -> list[str]:
    return [name for name in modules if any(name == door or name.startswith(f"{door}.") for door in DOORS_NOT_LOADED)]


def test_a_loaded_door_is_noticed() -> None:
    assert loaded_doors(["sys", "pipeflow.app", "pipeflow.cli.main"]) == ["pipeflow.cli.main"]


BROKEN: list[tuple[Check, dict[str, str]]] = [
    (unknown_floors, {"pipeflow/attic.py": ""}),
    (imports_upward, {"pipeflow/names.py": "from pipeflow.state.queue import Queue", "pipeflow/state/queue.py": ""}),
    (imports_upward, {"pipeflow/registry.py": "def f():\n    import pipeflow.embedded.broker"}),
    (imports_upward, {"pipeflow/engine/x.py": "from ..cli import main", "pipeflow/cli/__init__.py": ""}),
    (imports_upward, {"pipeflow/state/queue.py": "import pipeflow"}),
    (connectors_beyond_contracts, {f"connectors/{CONNECTORS}/nats.py": "from pipeflow.state import queue"}),
    (engine_knows_a_broker, {"pipeflow/engine/x.py": "from pipeflow.embedded.broker import EmbeddedBroker"}),
    (import_cycles, {"pipeflow/names.py": "import pipeflow.clock", "pipeflow/clock.py": "from pipeflow import names"}),
    (files_over_the_ceiling, {"pipeflow/names.py": "\n" * (CEILING + 1)}),
    (clocks_and_chance, {"pipeflow/app.py": "import time\nat = time.time()"}),
    (clocks_and_chance, {"pipeflow/app.py": "from time import time"}),
    (clocks_and_chance, {"pipeflow/app.py": "import random"}),
    (clocks_and_chance, {"pipeflow/app.py": "from uuid import uuid4"}),
    (clocks_and_chance, {"pipeflow/app.py": "import os\nkey = os.urandom(8)"}),
    (sql_outside_its_home, {"pipeflow/app.py": "QUERY = 'SELECT body FROM messages'"}),
    (sql_outside_its_home, {"pipeflow/app.py": "f = 'DELETE FROM messages WHERE id = ?'"}),
    (sql_outside_its_home, {"pipeflow/app.py": "import sqlite3"}),
    (unowned_tasks, {"pipeflow/app.py": "import asyncio\nasyncio.create_task(f())"}),
    (banned_names, {"pipeflow/state/utils.py": ""}),
    (banned_names, {"pipeflow/app.py": "class QueueManager: ..."}),
    (swallowed_exceptions, {"pipeflow/app.py": "try:\n    f()\nexcept Exception:\n    pass"}),
]


@pytest.mark.parametrize(("check", "files"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_every_check_can_fail(check: Check, files: dict[str, str], tmp_path: Path) -> None:
    assert check(_grown(tmp_path, files))


GOOD = {
    "pipeflow/__init__.py": "from pipeflow.app import App",
    "pipeflow/app.py": "import time\nfrom pipeflow.engine import consumer\nstarted = time.perf_counter()",
    "pipeflow/engine/__init__.py": "",
    "pipeflow/engine/consumer.py": "from pipeflow.registry import open_store",
    "pipeflow/registry.py": "TABLE = {'sqlite': 'pipeflow.embedded.broker'}",
    "pipeflow/embedded/broker.py": "from pipeflow.embedded.sqlite import statements",
    "pipeflow/embedded/sqlite/__init__.py": "",
    "pipeflow/embedded/sqlite/statements.py": "TAKE = 'SELECT body FROM messages'",
    "pipeflow/clock.py": "import time\nfrom pipeflow.names import IdPool\nnow = time.time()",
    "pipeflow/names.py": "if TYPE_CHECKING:\n    from pipeflow.clock import Clock",
    f"connectors/{CONNECTORS}/nats.py": "import pipeflow.protocols",
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_house_in_order_passes(check: Check, tmp_path: Path) -> None:
    assert check(_grown(tmp_path, GOOD)) == []


def _grown(root: Path, files: dict[str, str]) -> Tree:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_tree(root)
