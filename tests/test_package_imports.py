"""Which packages import which: first-party imports, and that optimizers need torch alone."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"optimizers", "datamodules", "lightning_modules", "callbacks", "linetune", "cli", "benchmarks", "tests"}
MAY_IMPORT = {
    "optimizers": {"optimizers"},
    "datamodules": {"datamodules"},
    "lightning_modules": {"lightning_modules", "optimizers"},
    "callbacks": {"callbacks", "optimizers"},
}
# The folders of each package: a folder imports those before it.
FOLDERS = {
    "lightning_modules": ["trainer", "checkpoints", "models", "batches", "features", "trained_model", "steps"],
    "datamodules": ["sources", "labels", "texts", "glue", "generated", "tokens", "batches"],
    "callbacks": [
        "trainer",
        "files",
        "checkpoints",
        "scores",
        "schedules",
        "interpolation",
        "reports",
        "outputs",
    ],
}


def imports(file: Path) -> set[str]:
    """Top-level names of everything that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_imports_only_those_it_may(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        forbidden = (imports(file) & PACKAGES) - MAY_IMPORT[package]
        assert not forbidden, f"{file.relative_to(ROOT)} imports {', '.join(sorted(forbidden))}"


@pytest.mark.parametrize("package", FOLDERS)
def test_a_folder_imports_those_before_it(package: str) -> None:
    root, folders = ROOT / package, FOLDERS[package]
    assert {path.parent.name for path in root.glob("*/*.py")} == set(folders)
    for place, folder in enumerate(folders):
        for file in sorted((root / folder).glob("*.py")):
            imported = {name for name in folders if f"{package}.{name}." in file.read_text()}
            assert not imported - set(folders[: place + 1]), file


def test_optimizers_import_torch_alone() -> None:
    for file in sorted((ROOT / "optimizers").rglob("*.py")):
        foreign = imports(file) - set(sys.stdlib_module_names) - {"torch", "optimizers"}
        assert not foreign, f"{file.relative_to(ROOT)} imports {', '.join(sorted(foreign))}"


def test_no_package_imports_the_command_line_or_the_benchmarks() -> None:
    for package in MAY_IMPORT:
        for file in sorted((ROOT / package).rglob("*.py")):
            assert not imports(file) & {"cli", "linetune", "benchmarks"}, file
