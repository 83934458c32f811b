"""A configuration that is not there: one line that names it, and those that are there under a similar name."""

from __future__ import annotations

from pathlib import Path

import pytest

from linetune.arguments import check_configs
from tests.cli.command_line import failed


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--config", "configs/quickstrt.yaml"], "no file 'configs/quickstrt.yaml'; close to it: linetune:quickstart"),
        (["--config=salsaa.yaml"], "no file 'salsaa.yaml'; close to it: linetune:optimizers/salsa"),
        (
            ["-c", "configs/optimizers/adamw.yaml"],
            "no file 'configs/optimizers/adamw.yaml'; close to it: linetune:optimizers/adamw",
        ),
        (["--config", "optimizers/adamw"], "no file 'optimizers/adamw'; close to it: linetune:optimizers/adamw"),
        (["--config", "mine.yml"], "no file 'mine.yml'; close to it: mine.yaml"),
        (["--config", "zzzz.yaml"], "no file 'zzzz.yaml'; give a path, or a shipped one as linetune:quickstart"),
        (["--config="], "no file ''; give a path, or a shipped one as linetune:quickstart"),
        (["--config", "~/no/such/mine.yaml"], "no file '~/no/such/mine.yaml'; give a path"),
        (["--config", "linetune:optimizer/salsa"], "no linetune:optimizer/salsa; close to it: linetune:optimizers/sal"),
        (["--config", "linetune:zzzz"], "no linetune:zzzz; there are callbacks/early_stopping, "),
    ],
)
def test_it_is_named_with_what_is_close_to_it(
    given: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text("seed_everything: 1\n")
    for arguments in (["fit", *given], ["predict", "--config", "mine.yaml", *given], [*given, "fit"]):
        message = failed(*arguments, capsys=capsys)
        assert message.startswith(f"linetune: error: config: there is {expected}")


def test_a_folder_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = failed("fit", "--config", str(tmp_path), capsys=capsys)
    assert message == f"linetune: error: config: {tmp_path} is a folder; give a file, such as its config.yaml"


@pytest.mark.parametrize(
    "config", ["{seed_everything: 3}", "trainer:\n  max_epochs: 3\n" + "#" * 5000, "-", "s3://a/b.yaml", "mine.yaml"]
)
def test_what_the_parser_takes_besides_is_let_through(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("seed_everything: 1\n")
    check_configs(["fit", "--config", config])
    check_configs(["fit", f"--config={config}", "--config"])
    assert capsys.readouterr() == ("", "")
