"""The map of the library: imports only point up it, no circles inside a room, and a help that loads little."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import mlclf

PACKAGE = Path(mlclf.__file__).parent
OUTSIDE = ("__init__", "__main__")
"""The door (public names, imported when first used) and the way in from the command line."""

LEAST_FILES = 35
FORBIDDEN_NAMES = ("utils", "common", "helpers", "misc", "tools")


def test_imports_only_point_up_the_map() -> None:
    order = {room: place for place, room in enumerate(rooms_of_the_map())}
    files = source_files()
    assert len(files) >= LEAST_FILES
    wrong = [
        f"{module} imports {imported}"
        for module, path in files.items()
        for imported in imports_of(path)
        if order[room_of(imported)] > order[room_of(module)]
    ]
    assert not wrong


def test_every_file_has_a_place_on_the_map() -> None:
    rooms = rooms_of_the_map()
    assert rooms[:5] == ["messages", "addresses", "given_files", "yaml_text", "errors"]
    assert rooms[-1] == "cli"
    assert {room_of(module) for module in source_files()} <= set(rooms)


def test_no_circle_of_imports() -> None:
    files = source_files()
    graph = {module: {name for name in imports_of(path) if name in files} for module, path in files.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(files)


def test_files_are_named_by_what_they_define() -> None:
    assert not [module for module in source_files() if module.rpartition(".")[2] in FORBIDDEN_NAMES]


def test_only_the_command_line_prints() -> None:
    printing = [
        module
        for module, path in source_files().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert {room_of(module) for module in printing} <= {"cli", "progress"}


def test_help_and_import_load_no_torch() -> None:
    for code in (
        "import sys; sys.argv = ['mlclf', '--help']\nfrom mlclf.cli import main\ntry: main()\nexcept SystemExit: pass",
        "import mlclf; mlclf.__version__",
    ):
        heavy = "; import sys; sys.exit(len({'torch', 'polars', 'pyarrow'} & set(sys.modules)))"
        command = [sys.executable, "-c", code + "\n" + heavy.removeprefix("; ")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def rooms_of_the_map() -> list[str]:
    """The rooms in the order of the map in the package's docstring: indented lines of a name and what it holds."""
    lines = (mlclf.__doc__ or "").splitlines()
    return [line.split()[0] for line in lines if line.startswith("    ") and len(line.split()) > 1]


def source_files() -> dict[str, Path]:
    """Module name → file, of all but the door and the packages' empty `__init__`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.stem not in OUTSIDE:
            found[".".join(("mlclf", *path.relative_to(PACKAGE).with_suffix("").parts))] = path
    return found


def room_of(module: str) -> str:
    return module.split(".")[1]


def imports_of(path: Path) -> Iterator[str]:
    """The modules of the library that a file imports, also inside functions and for types only."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("mlclf."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlclf"):
            assert node.module is not None
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in inside if (PACKAGE / Path(*name.split(".")[1:])).with_suffix(".py").is_file()]
            yield from modules or ([node.module] if node.module != "mlclf" else [])
