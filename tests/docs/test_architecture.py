"""The shape of the code: who imports whom, and how long a module may be."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from telemetry.admin.routes import ROUTES

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("telemetry", "config", "service", "local_video_server")
ALLOWED = {
    "telemetry": {"telemetry"},
    "config": {"config", "telemetry"},
    "service": {"service", "config", "telemetry"},
    "local_video_server": {"local_video_server", "service", "config"},
}
NAMED_BY_A_RECORD = {"telemetry.instrumentation.capture", "telemetry.exporters.processor"}
"""What a request's record names although it stands above it: the types of who records it, and of who exports it."""
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.add(str(node.module).partition(".")[0])
    return names


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {module_name(path) for path in MODULES}
FACES = {module_name(path) for path in MODULES if path.name == "__init__.py"}


def imported_on_loading(path: Path) -> set[str]:
    """Return the modules of ours that a module imports as soon as it is imported itself."""
    return modules_of(ast.parse(path.read_text("utf-8")).body)


def imported_ever(path: Path) -> set[str]:
    """Return what a module imports for its types and when its functions are called as well."""
    return modules_of(ast.walk(ast.parse(path.read_text("utf-8"))))


def modules_of(nodes: Iterable[ast.AST]) -> set[str]:
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if names <= NAMES else {*names, str(node.module)}
    return found & NAMES


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_in_one_direction(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert imported(path) & {*PACKAGES, "tests", "tools", "benchmarks"} <= ALLOWED[package]


def test_no_modules_know_each_other_in_a_circle() -> None:
    graph = {module_name(path): imported_ever(path) - {module_name(path)} for path in MODULES}
    graph = {name: known for name, known in graph.items() if name not in FACES}
    graph["telemetry.admin.routes"] |= {f"telemetry.admin.{route.view.partition(':')[0]}" for route in ROUTES}
    of_record = graph["telemetry.requests"]
    assert of_record >= NAMED_BY_A_RECORD
    of_record -= NAMED_BY_A_RECORD
    assert [*TopologicalSorter(graph).static_order()]  # or CycleError, which names the circle


def test_the_pages_stand_on_the_figures_and_nothing_else_on_the_pages() -> None:
    of_pages = ROOT / "telemetry" / "admin"
    importers = {
        path.name
        for path in (ROOT / "telemetry").rglob("*.py")
        if of_pages not in path.parents
        and any(name.startswith("telemetry.admin") for name in imported_on_loading(path))
    }
    assert importers == {"apps.py", "report.py"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_longer_than_600_lines(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 600


@pytest.mark.parametrize("path", [path for path in MODULES if path.name == "__init__.py"], ids=str)
def test_a_package_module_holds_names_not_code(path: Path) -> None:
    body = ast.parse(path.read_text("utf-8")).body
    if path.parent.name == "local_video_server":
        return
    for node in body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_name = isinstance(node, ast.Assign | ast.AnnAssign | ast.Import | ast.ImportFrom)
        is_typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        assert is_docstring or is_name or is_typing, f"{path}:{node.lineno}"
