"""The house: which room may use which, no circles, no long files, nothing but definitions at import."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# from the ground up; a room uses its own floor and those below
FLOORS = [{"utility"}, {"data", "loss", "metrics", "model"}, {"quant"}, {"engine"}, {"option", "trainer"}, {"main_ori"},
          {"main_limitrange_incremental"}, {"benchmarks", "examples"}]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path for path in ROOT.rglob("*.py")
               if path.relative_to(ROOT).parts[0].removesuffix(".py") in FLOOR and "__pycache__" not in path.parts)
LONGEST = 250
TYPED = FLOOR["benchmarks"]


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imports_of(path):
    """The project's modules that a file imports, at its head or within functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            if name:
                yield name


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_no_import_runs_upwards(path):
    own = FLOOR[module_of(path).partition(".")[0]]
    upwards = [name for name in imports_of(path) if FLOOR[name.partition(".")[0]] > own]
    assert not upwards


def test_no_circles():
    graph = {name: set(imports_of(path)) - {name} for name, path in MODULES.items()}
    for name in graph:  # a package's own face imports its parts, not the other way round
        graph[name] -= {other for other in graph[name] if name.startswith(f"{other}.")}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_file_fits_one_idea(path):
    if path.name != "option.py":
        assert len(path.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_nothing_but_definitions_at_import(path):
    """Calls at the top level build constants and registries; none reads the command line, a file or the environment."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.If | ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef):
            continue
        told = ast.unparse(node)
        assert not any(word in told for word in ("open(", "sys.argv", "os.environ[", "read_text", "parse_args")), told


def public_functions(node):
    """The functions and methods in a module or class that others may call."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef) and (not child.name.startswith("_") or child.name.startswith("__")):
            yield child
        elif isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public_functions(child)


@pytest.mark.parametrize("path", [path for path in FILES if FLOOR[module_of(path).partition(".")[0]] < TYPED],
                         ids=module_of)
def test_public_functions_say_their_types(path):
    for function in public_functions(ast.parse(path.read_text())):
        given = function.args
        arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        untyped = {one.arg for one in arguments if one and not one.annotation} - {"self", "cls"}
        assert function.returns and not untyped, f"{function.name}: {untyped or 'what it returns'}"
