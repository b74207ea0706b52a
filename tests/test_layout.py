"""The map of the library: imports only point up it, no circles of files or folders, and a help that loads little."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import mlclf

PACKAGE = Path(mlclf.__file__).parent
OUTSIDE = ("__init__", "__main__")
"""The door (public names, imported when first used) and the way in from the command line."""

LEAST_FILES = 200
MOST_FILES, MOST_LINES, MOST_FUNCTION_LINES = 12, 400, 60
FORBIDDEN_NAMES = ("utils", "common", "helpers", "misc", "tools")


@pytest.mark.slow
def test_imports_only_point_up_the_map() -> None:
    files = source_files()
    assert len(files) >= LEAST_FILES
    wrong = []
    for package in packages():
        order = {name: place for place, name in enumerate(entries_of_the_map(package))}
        for module, path in files.items():
            for imported in imports_of(path):
                own, other = entry_in(package, module), entry_in(package, imported)
                if own and other and own != other and order[other] > order[own]:
                    wrong.append(f"{module} imports {imported}")
    assert not wrong


@pytest.mark.parametrize("package", sorted(p for p in (str(d.parent) for d in PACKAGE.rglob("__init__.py"))))
def test_the_map_of_a_folder_names_what_is_in_it(package: str) -> None:
    folder = Path(package)
    found = {path.stem for path in folder.glob("*.py") if path.stem not in OUTSIDE}
    found |= {path.parent.name for path in folder.glob("*/__init__.py")}
    assert set(entries_of_the_map(folder)) == found


def test_no_circle_of_files() -> None:
    files = source_files()
    graph = {module: {name for name in imports_of(path) if name in files} for module, path in files.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(files)


def test_folders_and_files_are_small() -> None:
    counts = [(len(list(folder.glob("*.py"))) - (folder / "__init__.py").is_file(), folder) for folder in packages()]
    assert [str(folder) for count, folder in counts if count > MOST_FILES] == []
    assert [module for module, path in source_files().items() if len(path.read_text().splitlines()) > MOST_LINES] == []


def test_functions_are_short() -> None:
    long = [
        f"{module}.{node.name}: {lines_of(node)} lines"
        for module, path in source_files().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and lines_of(node) > MOST_FUNCTION_LINES
    ]
    assert long == []


def test_files_are_named_by_what_they_define() -> None:
    assert not [module for module in source_files() if module.rpartition(".")[2] in FORBIDDEN_NAMES]


def test_private_names_stay_in_their_file() -> None:
    shared = [
        f"{module} imports {alias.name} of {node.module}"
        for module, path in source_files().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlclf")
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert shared == []


def test_only_the_command_line_prints() -> None:
    printing = [
        module
        for module, path in source_files().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert {module.split(".")[1] for module in printing} <= {"cli"}


def test_help_and_import_load_no_torch() -> None:
    for code in (
        "import sys; sys.argv = ['mlclf', '--help']\nfrom mlclf.cli import main\ntry: main()\nexcept SystemExit: pass",
        "import mlclf; mlclf.__version__",
    ):
        heavy = "; import sys; sys.exit(len({'torch', 'polars', 'pyarrow'} & set(sys.modules)))"
        command = [sys.executable, "-c", code + "\n" + heavy.removeprefix("; ")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def packages() -> list[Path]:
    """The folders of the library."""
    return sorted(path.parent for path in PACKAGE.rglob("__init__.py"))


def entries_of_the_map(folder: Path) -> list[str]:
    """The files and folders in the order of the map in a package's docstring: lines of a name, spaces and its words."""
    doc = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    return [found[1] for line in doc.splitlines() if (found := re.match(r" *(\w+) {3,}\S", line))]


def entry_in(folder: Path, module: str) -> str | None:
    """Which file or folder of a package a module belongs to."""
    inside = ".".join((PACKAGE.name, *folder.relative_to(PACKAGE).parts)) + "."
    return module.removeprefix(inside).split(".")[0] if module.startswith(inside) else None


def lines_of(node: ast.FunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = node.body[0]
    is_doc = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    doc = (first.end_lineno or 0) - first.lineno + 1 if is_doc else 0
    return (node.end_lineno or 0) - node.lineno + 1 - doc


def source_files() -> dict[str, Path]:
    """Module name → file, of all but the door and the packages' `__init__`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.stem not in OUTSIDE:
            found[".".join(("mlclf", *path.relative_to(PACKAGE).with_suffix("").parts))] = path
    return found


@cache
def imports_of(path: Path) -> tuple[str, ...]:
    """The modules of the library that a file imports, also inside functions and for types only."""
    return tuple(_imports_of(path))


def _imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("mlclf."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlclf"):
            assert node.module is not None
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in inside if (PACKAGE / Path(*name.split(".")[1:])).with_suffix(".py").is_file()]
            yield from modules or ([node.module] if node.module != "mlclf" else [])
