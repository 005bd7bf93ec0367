"""The promises that no single part can keep alone, read off the tree itself."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import fleet

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("fleet", "store", "queries", "collectors", "dashboard", "pages")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
PAGES = sorted(path for path in (ROOT / "pages").glob("*.py") if path.name != "__init__.py")


def _calls(path: Path, name: str) -> list[int]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


def test_a_scope_is_made_in_one_place_only():
    makers = {str(path.relative_to(ROOT)) for path in MODULES if _calls(path, "Scope")}
    # fleet.model narrows an existing scope; nothing else may widen or invent one.
    assert makers <= {"dashboard/access.py", "fleet/model.py"}


def test_no_page_writes_raw_html():
    for path in MODULES:
        assert "unsafe_allow_html" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_page_is_thin_and_reads_no_source(page: Path):
    lines = page.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 110, f"{page.name} has {len(lines)} lines: move what it computes into queries or panels"
    imported = {
        (node.module or "").split(".")[0]
        for node in ast.walk(ast.parse("\n".join(lines)))
        if isinstance(node, ast.ImportFrom)
    }
    # A page names the questions it asks (queries.*); only dashboard.data asks them.
    assert not imported & {"collectors", "store", "docker", "pynvml", "prometheus_api_client"}


def test_pure_logic_imports_nothing_that_does_io():
    forbidden = {"subprocess", "socket", "requests", "urllib", "http", "threading.Timer", "random", "time"}
    for path in (ROOT / "fleet").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not imported & forbidden, f"{path.relative_to(ROOT)} imports {imported & forbidden}"


def test_every_requirement_is_pinned_with_a_reason_and_locked():
    for name in ("requirements", "requirements-dev"):
        locked = (ROOT / f"{name}.txt").read_text(encoding="utf-8")
        for line in (ROOT / f"{name}.in").read_text(encoding="utf-8").splitlines():
            if not line or line.startswith(("#", "-r")):
                continue
            pin, _, reason = line.partition("#")
            package, version = re.fullmatch(r"([A-Za-z0-9_.-]+)(?:\[[^]]+\])?==([^ ]+)", pin.strip()).groups()
            assert reason.strip(), f"{name}.in: {package} says no reason"
            assert re.search(rf"^{re.escape(package)}(\[[^]]+\])?=={re.escape(version)}\b", locked, re.M | re.I), (
                f"{name}.txt: {package}=={version} is not locked; write: make lock"
            )


def test_the_version_is_the_same_wherever_it_stands():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == fleet.__version__


def test_the_readme_names_only_targets_and_files_that_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"^make ([a-z-]+)", readme, re.M)):
        assert re.search(rf"^{target}:", makefile, re.M), f"README: make {target} is no target"
    for link in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / link).exists(), f"README links to {link}, which does not exist"


def test_every_documented_link_between_documents_resolves():
    for document in [*(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md"]:
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / link).exists(), f"{document.relative_to(ROOT)} links to {link}"


def test_the_tree_holds_no_absolute_path_of_a_developers_machine():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".sql", ".in"} and path.name != Path(__file__).name:
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"/(?:home|work|Users)/[a-z]+/", text), f"{name} names a path of one machine"
