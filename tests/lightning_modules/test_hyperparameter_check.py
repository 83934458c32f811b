"""Hyperparameters of another program's checkpoint, or of one that was edited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules import ClosureModule, LossOptions, ModelError, SequenceClassifier
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData, save_tiny_bert


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A checkpoint of a fit of one step."""
    folder = tmp_path_factory.mktemp("hyperparameters")
    module = SequenceClassifier(str(save_tiny_bert(folder / "bert")), label_names=["no", "yes"], loss=LossOptions())
    trainer = quiet_trainer(max_steps=1, default_root_dir=folder)
    trainer.fit(module, datamodule=TinyData(20))
    trainer.save_checkpoint(folder / "whole.ckpt", weights_only=False)
    return torch.load(folder / "whole.ckpt", weights_only=True)


def changed(checkpoint: dict[str, Any], folder: Path, **values: Any) -> Path:
    stored = checkpoint["hyper_parameters"]
    torch.save(checkpoint | {"hyper_parameters": stored | values}, folder / "changed.ckpt")
    return folder / "changed.ckpt"


WRONG = [
    ("model", 5, "model 5, which is not str"),
    ("num_labels", "two", "num_labels 'two', which is not int"),
    ("num_labels", True, "num_labels True, which is not int"),
    ("num_labels", None, "num_labels None, which is not int"),
    ("label_names", 7, r"label_names 7, which is not Sequence\[str\]"),
    ("label_names", "no", r"label_names 'no', which is not Sequence\[str\]"),
    ("label_names", [1, 2], r"label_names \[1, 2\], which is not Sequence\[str\]"),
    ("metrics", 3, r"metrics 3, which is not Sequence\[str\] \| None"),
    ("eval_set_names", None, r"eval_set_names None, which is not Sequence\[str\]"),
    ("problem_type", ["x"], r"problem_type \['x'\], which is not .*'regression'"),
    ("pretrained", "no", "pretrained 'no', which is not bool"),
    ("loss", 5, r"loss 5, which is not LossOptions \| None"),
    ("loss", {"weight": 3}, r"loss {'weight': 3}, which is not LossOptions \| None"),
    ("loss", {"label_smoothing": "x"}, r"loss .*, which is not LossOptions \| None"),
]


@pytest.mark.parametrize(("name", "value", "expected"), [*WRONG, ("width", 3, "width, which SequenceClassifier does")])
def test_one_of_another_kind_is_one_line(
    checkpoint: dict[str, Any], tmp_path: Path, name: str, value: Any, expected: str
) -> None:
    path = changed(checkpoint, tmp_path, **{name: value})
    with pytest.raises(ModelError, match=f"^ckpt_path: hyper_parameters of the checkpoint has {expected}") as error:
        SequenceClassifier.load_from_checkpoint(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "value", "expected"), WRONG)
def test_one_of_another_kind_is_one_line_under_a_trainer_too(
    checkpoint: dict[str, Any], tmp_path: Path, name: str, value: Any, expected: str
) -> None:
    module = SequenceClassifier(checkpoint["hyper_parameters"]["model"], label_names=["no", "yes"])
    path = changed(checkpoint, tmp_path, **{name: value})
    with pytest.raises(ModelError, match=f"^ckpt_path: hyper_parameters of the checkpoint has {expected}"):
        quiet_trainer().validate(module, datamodule=TinyData(20), ckpt_path=path, verbose=False)


def test_a_name_that_is_no_text_is_one_line(checkpoint: dict[str, Any], tmp_path: Path) -> None:
    torch.save(checkpoint | {"hyper_parameters": checkpoint["hyper_parameters"] | {3: 3}}, tmp_path / "a.ckpt")
    with pytest.raises(ModelError, match=r"^ckpt_path: hyper_parameters of the checkpoint has 3 for the name of one"):
        SequenceClassifier.load_from_checkpoint(tmp_path / "a.ckpt")


def test_whole_ones_and_what_is_given_in_their_place_are_taken(checkpoint: dict[str, Any], tmp_path: Path) -> None:
    path = changed(checkpoint, tmp_path)
    assert SequenceClassifier.load_from_checkpoint(path).label_names == ("no", "yes")
    path = changed(checkpoint, tmp_path, num_labels="two", width=3, _class_path=5)
    with pytest.raises(ModelError, match="num_labels 'two'"):
        SequenceClassifier.load_from_checkpoint(path, dropout=0.0)
    path = changed(checkpoint, tmp_path, num_labels="two")
    assert SequenceClassifier.load_from_checkpoint(path, num_labels=2, dropout=0.0).num_labels == 2


class Loose(ClosureModule):
    """Takes an argument out of those that it hands on, and one of another kind than it says."""

    def __init__(self, size: int = 0, **rest: Any) -> None:
        factor = rest.pop("factor")
        super().__init__(**rest)
        self.save_hyperparameters({"size": size, "factor": factor})
        self.layer = nn.Linear(int(factor), int(size or 1))

    def compute_loss(self, batch: Any) -> Tensor:
        return self.layer(batch).mean()


@pytest.mark.parametrize("size", [None, "2"])
def test_a_module_of_the_users_own_may_be_looser_than_it_says(size: Any, tmp_path: Path) -> None:
    trainer = quiet_trainer(max_steps=1, default_root_dir=tmp_path)
    trainer.fit(Loose(size=size, factor=3), torch.utils.data.DataLoader(torch.randn(4, 3)))
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    assert Loose.load_from_checkpoint(tmp_path / "a.ckpt").layer.in_features == 3
