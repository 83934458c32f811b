from __future__ import annotations

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from callbacks import SubmissionWriter
from datamodules import TASKS, GLUEDataModule
from tests.glue_files import write_glue_folder
from tests.quiet_trainer import quiet_trainer
from tests.ranks import on_ranks
from tests.tiny_models import TinyLogger

NAMES = {
    "cola": ["CoLA.tsv"],
    "sst2": ["SST-2.tsv"],
    "mrpc": ["MRPC.tsv"],
    "qqp": ["QQP.tsv"],
    "stsb": ["STS-B.tsv"],
    "mnli": ["MNLI-m.tsv", "MNLI-mm.tsv"],
    "qnli": ["QNLI.tsv"],
    "rte": ["RTE.tsv"],
    "wnli": ["WNLI.tsv"],
    "ax": ["AX.tsv"],
}
CLASSES = {name: 3 if name in ("mnli", "ax") else 2 for name in TASKS}


class Rows(LightningDataModule):
    """Numbered rows of a GLUE task; nothing else of them matters here."""

    def __init__(self, task_name, counts, batch_size=2):
        super().__init__()
        self.task = TASKS[task_name]
        self.counts, self.batch_size = counts, batch_size

    def predict_dataloader(self):
        loaders = [
            DataLoader([{"idx": row} for row in range(count)], batch_size=self.batch_size) for count in self.counts
        ]
        return loaders if len(loaders) > 1 else loaders[0]


class Predictor(LightningModule):
    """Predicts class ``(row + loader) % classes``, or score ``row - 1.00049``."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        rows = batch["idx"]
        if self.classes == 1:
            return {"idx": rows, "scores": rows.float() - 1.00049}
        target = (rows + dataloader_idx) % self.classes
        return {"idx": rows, "probabilities": torch.nn.functional.one_hot(target, self.classes).float() * 0.6 + 0.1}


def predict(module, data, tmp_path, writer=None, **options):
    trainer = quiet_trainer(
        default_root_dir=tmp_path, callbacks=[writer or SubmissionWriter(str(tmp_path / "out"))], **options
    )
    trainer.predict(module, datamodule=data, return_predictions=False)


def written(tmp_path):
    return {file.name: file.read_text() for file in (tmp_path / "out").iterdir()}


def expected(task, count, loader=0):
    words = {
        "mnli": ["entailment", "neutral", "contradiction"],
        "ax": ["entailment", "neutral", "contradiction"],
        "qnli": ["entailment", "not_entailment"],
        "rte": ["entailment", "not_entailment"],
    }.get(task, ["0", "1"])
    rows = (f"{row}\t{words[(row + loader) % CLASSES[task]]}\n" for row in range(count))
    return "index\tprediction\n" + "".join(rows)


@pytest.mark.parametrize("task", [name for name in TASKS if name != "stsb"])
def test_the_leaderboards_files(task, tmp_path):
    counts = [5, 4][: len(NAMES[task])]
    predict(Predictor(CLASSES[task]), Rows(task, counts), tmp_path)
    assert written(tmp_path) == {
        name: expected(task, count, loader)
        for loader, (name, count) in enumerate(zip(NAMES[task], counts, strict=True))
    }


def test_scores_stay_in_range_and_have_three_decimals(tmp_path):
    predict(Predictor(1), Rows("stsb", [9]), tmp_path)
    scores = ["0.000", "0.000", "1.000", "2.000", "3.000", "4.000", "5.000", "5.000", "5.000"]
    rows = [f"{row}\t{score}" for row, score in enumerate(scores)]
    # Row 2 is 0.99951: rounded, not cut.
    assert written(tmp_path) == {"STS-B.tsv": "\n".join(["index\tprediction", *rows, ""])}


def test_rows_come_in_order_whatever_the_order_of_the_predictions(tmp_path):
    class Backwards(Rows):
        def predict_dataloader(self):
            return DataLoader([{"idx": row} for row in reversed(range(7))], batch_size=3)

    predict(Predictor(2), Backwards("cola", [7]), tmp_path)
    assert written(tmp_path) == {"CoLA.tsv": expected("cola", 7)}


def test_from_official_files_to_a_submission(tmp_path):
    class LongestWins(Predictor):
        def predict_step(self, batch, batch_idx, dataloader_idx=0):
            assert "labels" not in batch
            return super().predict_step(batch, batch_idx, dataloader_idx)

    data = GLUEDataModule(
        "mnli",
        data_dir=str(write_glue_folder(tmp_path / "glue")),
        tokenizer="offline:all-MiniLM-L6-v2",
        cache_dir=str(tmp_path / "cache"),
    )
    predict(LongestWins(3), data, tmp_path)
    assert written(tmp_path) == {"MNLI-m.tsv": expected("mnli", 3), "MNLI-mm.tsv": expected("mnli", 3, 1)}


def test_a_second_run_replaces_the_file(tmp_path):
    predict(Predictor(2), Rows("cola", [7]), tmp_path)
    predict(Predictor(2), Rows("cola", [3]), tmp_path)
    assert written(tmp_path) == {"CoLA.tsv": expected("cola", 3)}


def test_an_incomplete_file_is_said(tmp_path):
    with pytest.warns(UserWarning, match=r"SST-2\.tsv has 4 of 7 rows; the leaderboard takes only complete files"):
        predict(Predictor(2), Rows("sst2", [7]), tmp_path, limit_predict_batches=2)
    assert written(tmp_path) == {"SST-2.tsv": expected("sst2", 4)}


def test_the_default_folder_is_the_runs(tmp_path):
    predict(Predictor(2), Rows("sst2", [2]), tmp_path, writer=SubmissionWriter())
    assert (tmp_path / "submission" / "SST-2.tsv").read_text() == expected("sst2", 2)


@pytest.mark.parametrize(("version", "folder"), [("a1", "tiny/a1"), (2, "tiny/version_2")])
def test_the_folder_of_a_run_whose_logger_has_none_of_its_own(tmp_path, version, folder):
    logger = TinyLogger(str(tmp_path), version)
    predict(Predictor(2), Rows("sst2", [2]), tmp_path, writer=SubmissionWriter(), logger=logger)
    assert (tmp_path / folder / "submission" / "SST-2.tsv").is_file()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    predict(Predictor(2), Rows("cola", [3]), tmp_path)
    before = written(tmp_path)

    class Full:
        def __iter__(self):
            yield 0, "0"
            raise OSError("No space left on device")

        def __len__(self):
            return 1

    monkeypatch.setattr("callbacks.outputs.submission_writer._rows", lambda *arguments: Full())
    with pytest.raises(OSError, match="No space left"):
        predict(Predictor(2), Rows("cola", [7]), tmp_path)
    assert written(tmp_path) == before


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_predictions_that_are_not_finite_are_refused(tmp_path, bad):
    class Broken(Predictor):
        def predict_step(self, batch, batch_idx, dataloader_idx=0):
            output = super().predict_step(batch, batch_idx, dataloader_idx)
            return {name: value * bad if name != "idx" else value for name, value in output.items()}

    with pytest.raises(MisconfigurationException, match=r"^predictions are not finite; nothing is written$"):
        predict(Broken(2), Rows("cola", [3]), tmp_path)
    assert written(tmp_path) == {}


def test_another_number_of_classes_is_refused(tmp_path):
    with pytest.raises(MisconfigurationException, match=r"^predictions are of 2 classes; the task has 3$"):
        predict(Predictor(2), Rows("ax", [3]), tmp_path)
    assert written(tmp_path) == {}


def test_bad_settings_are_refused_before_anything_is_predicted(tmp_path):
    class Unused(Predictor):
        def predict_step(self, batch, batch_idx, dataloader_idx=0):
            raise AssertionError("predicted")

    (tmp_path / "file").write_text("")
    with pytest.raises(MisconfigurationException, match=r"^SubmissionWriter cannot make .*file/out: Not a directory$"):
        predict(Unused(2), Rows("cola", [3]), tmp_path, SubmissionWriter(str(tmp_path / "file" / "out")))

    class Foreign(LightningDataModule):
        def predict_dataloader(self):
            return DataLoader([{"idx": 0}])

    with pytest.raises(MisconfigurationException, match=r"^SubmissionWriter needs .* GLUE task, not Foreign"):
        predict(Unused(2), Foreign(), tmp_path)


def _predict_in_a_process(rank, root):
    for folder, task, counts, padded in (("odd", "mnli", [7, 3], False), ("padded", "stsb", [5], True)):
        data = Rows(task, counts)
        if padded:
            # The usual distributed sampler gives five rows out as three and three.
            sampler = torch.utils.data.DistributedSampler(range(5), num_replicas=2, rank=rank, shuffle=False)
            data.predict_dataloader = lambda sampler=sampler: DataLoader(
                [{"idx": row} for row in range(5)], batch_size=2, sampler=sampler
            )
        module = Predictor(1 if task == "stsb" else 3)
        writer = SubmissionWriter(f"{root}/out/{folder}")
        predict(module, data, root, writer, strategy="ddp", devices=2)


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_write_one_file(tmp_path):
    on_ranks(_predict_in_a_process, str(tmp_path))
    files = {str(file.relative_to(tmp_path / "out")): file.read_text() for file in tmp_path.glob("out/*/*")}
    # Of an odd number of rows, one process predicts one more than the other.
    assert files == {
        "odd/MNLI-m.tsv": expected("mnli", 7),
        "odd/MNLI-mm.tsv": expected("mnli", 3, 1),
        "padded/STS-B.tsv": "index\tprediction\n0\t0.000\n1\t0.000\n2\t1.000\n3\t2.000\n4\t3.000\n",
    }
