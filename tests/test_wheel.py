"""What is installed: the wheel's files, and the command from a folder whose files have our packages' names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("optimizers", "datamodules", "lightning_modules", "callbacks", "linetune")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*PACKAGES, "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cli.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(out)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (file,) = out.glob("*.whl")
    return file


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_the_configs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert archive.read(points).decode() == "[console_scripts]\nlinetune = linetune.__main__:main\n"
    code = {path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    typed = {f"{name}/py.typed" for name in PACKAGES}
    configs = {path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml")}
    shipped = {f"linetune/{path.as_posix()}" for path in configs if path.parts[1] != "studies"}
    assert names == code | typed | shipped | {"cli.py"}


@pytest.mark.slow
def test_the_command_works_beside_files_of_the_same_names(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    here = tmp_path / "here"
    here.mkdir()
    for name in ("optimizers", "datamodules", "cli"):
        (here / f"{name}.py").write_text("raise RuntimeError('the wrong file')\n")
    (here / "mine.py").write_text("import torch\n\n\nclass Own(torch.optim.SGD):\n    pass\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "HF_HUB_OFFLINE": "1"}

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else done.stderr

    assert python("-m", "linetune", "--version") == "linetune 0.1.0\n"
    own = ["--config", "linetune:quickstart", "--config", "linetune:optimizers/salsa", "--model.optimizer", "mine.Own"]
    assert "mine.Own" in python("-m", "linetune", "fit", *own, "--print_config")
    assert python("-c", "import linetune, optimizers; print(optimizers.__file__)").startswith(str(tmp_path / "site"))
    (here / "optimizers.py").write_text("")
    line = python("-c", "import optimizers, linetune").splitlines()[-1]
    assert line == (
        f"ImportError: linetune: optimizers was taken from {here / 'optimizers.py'}; import linetune before it, or "
        "rename that file"
    )
