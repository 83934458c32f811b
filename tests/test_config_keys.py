"""Configuration files that YAML reads otherwise than they were meant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import cli
from linetune.config_keys import check_keys

ROOT = Path(__file__).parent.parent
TWICE = """\
model:
  optimizer: optimizers.SaLSA
trainer:
  max_epochs: 1
model:
  trainable: head
"""
IN_A_LIST = """\
trainer:
  callbacks:
    - class_path: callbacks.StepSizeMonitor
    - class_path: callbacks.ClassReport
      class_path: callbacks.Calibration
"""
ALIASES = """\
one: &one {a: 1}
two: *one
three: {<<: *one, b: 2}
four: {<<: *one, <<: *three}
"""


def refusal_of(file: Path) -> str | None:
    try:
        check_keys(file)
    except MisconfigurationException as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TWICE, "the key model stands twice, in lines 1 and 5,"),
        (IN_A_LIST, "the key class_path stands twice, in lines 4 and 5,"),
        ("{a: 1, a: 1}", "the key a stands twice, in lines 1 and 1,"),
        ("", "this is nothing"),
        ("# trainer:\n", "this is nothing"),
        ("- trainer\n", "this is a list"),
        ("null\n", "this is a single value"),
    ],
)
def test_a_file_that_says_something_else_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(MisconfigurationException, match=rf"^{re.escape(str(file))}: .*{re.escape(message)}"):
        check_keys(file)


def test_the_command_line_refuses_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.yaml").write_text(TWICE)
    with pytest.raises(SystemExit) as ended:
        cli.main(["fit", "--config", str(ROOT / "configs/quickstart.yaml"), "--config", str(tmp_path / "own.yaml")])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"linetune: error: {tmp_path / 'own.yaml'}: the key model stands twice")


@pytest.mark.parametrize("text", [ALIASES, "{}", "not: [closed"])
def test_what_is_no_matter_of_keys_is_left_to_the_parser(text: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text)
    assert refusal_of(tmp_path / "own.yaml") is None


@pytest.mark.parametrize("file", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda file: file.stem)
def test_our_own_configurations_pass(file: Path) -> None:
    assert refusal_of(file) is None


@given(
    st.dictionaries(st.text(), st.recursive(st.integers(), lambda of: st.lists(of) | st.dictionaries(st.text(), of)))
)
def test_what_yaml_writes_passes(tmp_path_factory: pytest.TempPathFactory, value: dict) -> None:
    file = tmp_path_factory.mktemp("config") / "own.yaml"
    file.write_text(yaml.safe_dump(value, allow_unicode=True), encoding="utf-8")
    assert refusal_of(file) is None
