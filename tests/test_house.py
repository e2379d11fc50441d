"""The house keeps its shape: imports run one way, and every file can be read at a sitting."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "zsg_jax"
# What a room may import besides itself; `runtime` serves all.
ROOMS = {
    "runtime": set(),
    "statistics": set(),
    "data": set(),
    "models": set(),
    "similarity": {"data", "models"},
    "leakage": {"data", "similarity"},
    "arrangement": {"data", "similarity", "leakage", "workdir"},
    "training": {"data", "models"},
    "evaluation": {"data", "models", "training"},
    "workdir": {"data", "models", "training"},
    "planning": {"models", "training"},
    "diversity": {"data", "models", "training", "workdir"},
    "integrations": set(),
    "report": {
        "arrangement",
        "data",
        "diversity",
        "evaluation",
        "similarity",
        "statistics",
        "training",
        "workdir",
    },
}


def room(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imported(path):
    """The rooms that a file imports from, with the line."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "zsg_jax" and len(parts) > 1:
                yield parts[1], node.lineno


def test_imports_run_one_way():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {other}"
        for path in PACKAGE.rglob("*.py")
        if room(path) in ROOMS
        for other, line in imported(path)
        if other not in {room(path), "runtime", *ROOMS[room(path)]}
    ]
    assert wrong == []


def test_every_room_has_its_place():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms == {*ROOMS, "workflows"}


def test_files_are_short_enough_to_read():
    folders = (PACKAGE, ROOT / "tests", ROOT / "configs", ROOT / "benchmarks")
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in folders
        for path in folder.rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 450
    }
    assert long == {}


def test_every_file_that_a_page_names_is_there():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    named = {
        (page.name, path)
        for page in pages
        for path in re.findall(
            r"(?<![\w./])(?:tests|zsg_jax|configs|benchmarks|launch)/[\w/.-]*\w", page.read_text()
        )
    }
    assert len(named) > 50
    assert [one for one in sorted(named) if not (ROOT / one[1]).exists()] == []
