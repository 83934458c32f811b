"""Evaluation and prediction in batches of similar length give what a loop over single rows gives, in its order."""

from __future__ import annotations

import csv
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from callbacks import PredictionWriter
from datamodules import TextDataModule
from datamodules.batches.length_batch_sampler import LengthBatchSampler
from lightning_modules import LossOptions, SequenceClassifier
from tests.families import family_model
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import save_tiny_bert

MINILM = "offline:all-MiniLM-L6-v2"
ROWS = 151
WORDS = ["a", "film", "of", "great", "and", "small", "moments", "which", "the", "camera", "never", "catches"]


def write_rows(folder: Path, labels: tuple[str, ...]) -> str:
    chance = random.Random(0)
    with (folder / "rows.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["text", "label"])
        for row in range(ROWS):
            table.writerow([" ".join(chance.choices(WORDS, k=chance.randint(1, 60))), labels[row % len(labels)]])
    return str(folder / "rows.csv")


def data_for(folder: Path, labels: tuple[str, ...] = ("no", "yes", "perhaps"), **options: Any) -> TextDataModule:
    file = write_rows(folder, labels)
    options = {"text_columns": "text", "label_column": "label", "max_length": 48} | options
    files = {"train_file": file, "val_file": file, "test_file": file, "predict_file": file}
    return TextDataModule(**files, tokenizer=MINILM, cache_dir=str(folder / "cache"), **options)  # type: ignore[arg-type]


def module_for(folder: Path, num_labels: int = 3, **options: Any) -> SequenceClassifier:
    sizes = {"vocab_size": 30_522, "max_position_embeddings": 64, "initializer_range": 0.5}
    return SequenceClassifier(str(save_tiny_bert(folder / "m", num_labels, **sizes)), num_labels, **options)


def trainer(*callbacks: Any, ranks: int = 1, **options: Any) -> Trainer:
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo") if ranks > 1 else "auto"
    return quiet_trainer(devices=ranks, strategy=strategy, **({"callbacks": list(callbacks)} | options))


def rows_one_by_one(data: TextDataModule, purpose: str) -> list[dict[str, torch.Tensor]]:
    """The rows of a purpose as batches of one, in the order of the file."""
    data.setup("fit" if purpose == "validation" else purpose)
    rows, collator = data.datasets_for(purpose)[0], data._collator(purpose)
    return [collator([row]) for row in rows]


@torch.no_grad()
def outputs_one_by_one(module: SequenceClassifier, batches: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    return torch.cat([module.eval()(batch) for batch in batches])


@pytest.mark.parametrize("eval_batch_size", [None, 7])
@pytest.mark.parametrize("long_texts", ["truncate", "windows"])
@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_loss_and_metrics_of_classes(
    eval_batch_size: int | None, long_texts: str, padding_side: str, tmp_path: Path
) -> None:
    options = {"max_length": 16, "window_overlap": 4} if long_texts == "windows" else {}
    data = data_for(tmp_path, long_texts=long_texts, eval_batch_size=eval_batch_size, **options)
    data.tokenizer.padding_side = padding_side
    weights = {"no": 1.0, "perhaps": 0.5, "yes": 3.0}
    module = module_for(tmp_path, label_names=data.label_names, loss=LossOptions(weights))
    (found,) = trainer().validate(module, data, verbose=False)

    batches = rows_one_by_one(data, "validation")
    logits = outputs_one_by_one(module, batches)
    labels = torch.cat([batch["labels"] for batch in batches])
    per_label = torch.tensor([weights[name] for name in data.label_names])
    assert found["val/loss"] == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, labels, per_label)), rel=1e-5
    )
    assert found["val/accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()), abs=1e-7)


def test_loss_and_correlation_of_scores(tmp_path: Path) -> None:
    data = data_for(tmp_path, ("0.5", "1.7", "4.1"), problem_type="regression")
    module = module_for(tmp_path, 1, problem_type="regression")
    (found,) = trainer().test(module, data, verbose=False)
    batches = rows_one_by_one(data, "test")
    scores, labels = outputs_one_by_one(module, batches), torch.cat([batch["labels"] for batch in batches])
    assert found["test/loss"] == pytest.approx(float((scores - labels).square().mean()), rel=1e-5)
    correlation = torch.corrcoef(torch.stack([scores, labels]))[0, 1]
    assert found["test/pearson"] == pytest.approx(float(correlation), abs=1e-5)


class Keeper(BasePredictionWriter):
    """A user's writer that takes what it is given for rows in their order."""

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(self, trainer: Any, pl_module: Any, predictions: Any, batch_indices: Any) -> None:
        self.probabilities = torch.cat([each["probabilities"] for each in predictions])
        # Of one loader, Lightning 2.6.6 gives the predictions alone, and the places in a list of loaders.
        (of_loader,) = batch_indices
        self.places = [place for batch in of_loader for place in batch]
        self.sizes = [len(each["idx"]) for each in predictions], [len(each) for each in of_loader]


@pytest.mark.parametrize("with_writer", [False, True])
@pytest.mark.parametrize("long_texts", ["truncate", "windows"])
def test_predictions_come_in_the_order_of_the_rows(with_writer: bool, long_texts: str, tmp_path: Path) -> None:
    options = {"max_length": 16, "window_overlap": 4} if long_texts == "windows" else {}
    data, writer = data_for(tmp_path, long_texts=long_texts, **options), Keeper()
    module = module_for(tmp_path)
    run = trainer(*([writer] if with_writer else []))
    found = run.predict(module, data)
    assert found is not None
    assert len(found) > 1
    assert isinstance(run.predict_dataloaders.batch_sampler._batch_sampler, LengthBatchSampler)

    expected = outputs_one_by_one(module, rows_one_by_one(data, "predict")).softmax(1)
    assert torch.cat([each["idx"] for each in found]).tolist() == list(range(ROWS))  # type: ignore[call-overload,index]
    probabilities = torch.cat([each["probabilities"] for each in found])  # type: ignore[call-overload,index]
    torch.testing.assert_close(probabilities, expected, rtol=1e-4, atol=1e-5)
    if with_writer:
        assert torch.equal(writer.probabilities, probabilities)
        assert writer.places == list(range(ROWS))
        assert writer.sizes[0] == writer.sizes[1]


@pytest.mark.parametrize("fn", ["fit", "validate"])
def test_a_loader_that_is_asked_for_after_a_run_can_be_given_to_another(fn: str, tmp_path: Path) -> None:
    """As one predicts the validation rows: Lightning makes a loader's batch sampler anew, from what a hook has made."""
    data, module, run = data_for(tmp_path), module_for(tmp_path), trainer(max_steps=1)
    getattr(run, fn)(module, datamodule=data)
    (found,) = run.validate(module, data.val_dataloader(), verbose=False)
    assert found == run.validate(module, data, verbose=False)[0] | {"val/loss": pytest.approx(found["val/loss"])}
    predicted = run.predict(module, data.val_dataloader())
    assert predicted is not None
    assert torch.cat([each["idx"] for each in predicted]).tolist() == list(range(ROWS))  # type: ignore[call-overload,index]


class Doubled(SequenceClassifier):
    """A user's own predictions, which nobody can put into another order."""

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self(batch) * 2


def test_predictions_of_ones_own_are_of_rows_in_their_order(tmp_path: Path) -> None:
    data = data_for(tmp_path)
    module = Doubled(str(save_tiny_bert(tmp_path / "m", 3, vocab_size=30_522, max_position_embeddings=64)), 3)
    found = trainer().predict(module, data)
    assert found is not None
    assert [len(batch) for batch in found] == [64, 64, 23]
    expected = 2 * outputs_one_by_one(module, rows_one_by_one(data, "predict"))
    torch.testing.assert_close(torch.cat(found), expected, rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]


def test_a_loader_of_ones_own_is_left_alone(tmp_path: Path) -> None:
    data, module = data_for(tmp_path), module_for(tmp_path)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0)).tolist()
    rows_one_by_one(data, "predict")
    loader: Any = DataLoader(data.datasets_for("predict")[0], 20, sampler=order, collate_fn=data._collator("predict"))
    found = trainer().predict(module, loader)
    assert [row for batch in found for row in batch["idx"].tolist()] == order  # type: ignore[union-attr,call-overload,index]


class Lengths(SequenceClassifier):
    """Notes which rows are evaluated, batch by batch."""

    seen: list[list[int]]

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.seen.append(batch["idx"].tolist())
        return super().validation_step(batch, batch_idx, dataloader_idx)


@pytest.mark.parametrize(
    "options", [{"limit_val_batches": 2}, {"limit_val_batches": 0.7}, {"overfit_batches": 2}, {"fast_dev_run": 2}]
)
def test_a_part_of_the_batches_is_the_rows_at_the_start(options: Any, tmp_path: Path) -> None:
    model = save_tiny_bert(tmp_path / "m", 3, vocab_size=30_522, max_position_embeddings=64)
    module = Lengths(str(model), 3, optimizer=partial(torch.optim.SGD, lr=0.1))
    module.seen = []
    trainer(max_epochs=1, num_sanity_val_steps=0, **options).fit(module, data_for(tmp_path))
    assert module.seen == [list(range(64)), list(range(64, 128))]


def test_long_rows_come_first_in_batches_of_2048_tokens(tmp_path: Path) -> None:
    module = Lengths(str(save_tiny_bert(tmp_path / "m", 3, vocab_size=30_522, max_position_embeddings=64)), 3)
    module.seen = []
    data = data_for(tmp_path)
    trainer().validate(module, data, verbose=False)
    lengths = [len(row["input_ids"]) for row in data.datasets_for("validation")[0]]
    assert sorted(row for batch in module.seen for row in batch) == list(range(ROWS))
    longest = [max(lengths[row] for row in batch) for batch in module.seen]
    assert longest == sorted(longest, reverse=True)
    expected, left = [], ROWS
    for length in longest:
        expected.append(min(2048 // length, left))
        left -= expected[-1]
    assert [len(batch) for batch in module.seen] == expected


def test_rounded_lengths_count(tmp_path: Path) -> None:
    module = Lengths(str(save_tiny_bert(tmp_path / "m", 3, vocab_size=30_522, max_position_embeddings=64)), 3)
    module.seen = []
    trainer().validate(module, data_for(tmp_path, pad_to_multiple_of=48), verbose=False)
    assert [len(batch) for batch in module.seen] == [42, 42, 42, 25]  # of 48 tokens each, 2016 and 1200


def test_rows_stay_in_order_where_padding_changes_logits(tmp_path: Path) -> None:
    # ConvBERT's convolution reads padding: its logits are those of the batch that a row stands in.
    family_model("convbert", vocab_size=30_522, max_position_embeddings=64).save_pretrained(tmp_path / "m")
    data = data_for(tmp_path, ("no", "yes"))
    module = Lengths(str(tmp_path / "m"), 2)
    module.seen = []
    with pytest.warns(UserWarning, match="depend on how far a text is padded"):
        trainer().validate(module, data, verbose=False)
    assert module.padding.matters
    assert [row for batch in module.seen for row in batch] == list(range(ROWS))
    assert [len(batch) for batch in module.seen] == [64, 64, 23]


@pytest.mark.distributed
def test_two_ranks_evaluate_and_predict_every_row_once(tmp_path: Path) -> None:
    module = module_for(tmp_path)
    alone, among = (trainer(ranks=ranks).validate(module, data_for(tmp_path), verbose=False)[0] for ranks in (1, 2))
    assert among == pytest.approx(alone, rel=1e-5)
    data = data_for(tmp_path)
    options = {"return_predictions": False}
    trainer(PredictionWriter(str(tmp_path / "p.csv")), ranks=2).predict(module, data, **options)
    with (tmp_path / "p.csv").open(newline="") as stream:
        found = list(csv.DictReader(stream))
    expected = outputs_one_by_one(module, rows_one_by_one(data, "predict")).softmax(1)
    names = [module.model.config.id2label[label] for label in range(3)]
    read = torch.tensor([[float(row[f"probability_{name}"]) for name in names] for row in found])
    torch.testing.assert_close(read, expected, rtol=1e-4, atol=1e-5)


def test_without_a_trainer_rows_come_in_their_order(tmp_path: Path) -> None:
    data = data_for(tmp_path)
    data.setup()
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        assert [row for batch in loader for row in batch["idx"].tolist()] == list(range(ROWS))
