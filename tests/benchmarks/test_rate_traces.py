"""Traces of what ParabolicAdam measures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from lightning.pytorch import seed_everything
from torch import nn

from benchmarks.rate_traces import FILE, RateTrace, main
from benchmarks.study.grid import expand_runs
from benchmarks.study.results import FINISHED, Result, ResultsFile
from benchmarks.study.run_folder import run_folder
from benchmarks.study.study_file import load_study
from lightning_modules import ClosureModule
from optimizers import ParabolicAdam, parabolic_adam
from tests.quiet_trainer import quiet_trainer


class Regression(ClosureModule):
    def __init__(self) -> None:
        super().__init__(optimizer=partial(ParabolicAdam, total_steps=30))
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def compute_loss(self, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.mse_loss(self.layers(x)[:, 0], y)


@pytest.fixture
def traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Any]]:
    """The folder of a run with a trace, and what its searches measured."""
    measured = []

    def remember(*args: Any, **options: Any) -> Any:
        measured.append(parabola(*args, **options))
        return measured[-1]

    parabola = parabolic_adam.measure_parabola
    monkeypatch.setattr(parabolic_adam, "measure_parabola", remember)
    seed_everything(0)
    x = torch.randn(240, 4)
    data = torch.utils.data.TensorDataset(x, x.sin().sum(1) + 0.1 * torch.randn(240))
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    trainer = quiet_trainer(max_epochs=1, default_root_dir=tmp_path, callbacks=[RateTrace()])
    trainer.fit(Regression(), loader)
    return tmp_path, measured


def test_a_row_per_search_has_what_the_search_measured(traced: tuple[Path, list[Any]]) -> None:
    folder, measured = traced
    rows = pd.read_csv(folder / FILE)
    assert rows["step"].tolist()[:6] == [1, 2, 3, 4, 6, 9]
    assert len(rows) == len(measured)
    for name in ("loss", "slope", "curvature"):
        expected = [float("nan") if (value := getattr(found, name)) is None else value for found in measured]
        assert rows[name].tolist() == pytest.approx(expected, rel=1e-6, nan_ok=True), name
    assert rows["minimiser"].is_monotonic_increasing
    assert rows["minimiser"].iloc[-1] == pytest.approx((rows["agreement"] * rows["distance"]).max())
    assert (rows["gradient_l1"] > 0).all()
    share = ParabolicAdam([torch.zeros(1)]).defaults["peak_fraction"]
    assert rows["peak_rate"].tolist() == pytest.approx((max(share, 13 / 30) * rows["minimiser"]).tolist())


STUDY = {
    "title": "two rates",
    "settings": {"model.model": "folder/tiny", "data.train_batch_size": 8},
    "axes": {
        "task": {"easy": {"settings": {"data.task_name": "cola"}}},
        "method": {
            "AdamW": {"axes": {"rate": {"keys": "model.optimizer.lr", "values": [1e-4, 2e-4]}}},
            "ParabolicAdam": {"settings": {"model.optimizer": "optimizers.ParabolicAdam"}},
        },
    },
    "seeds": 1,
    "budget": {"epochs": 1},
    "metric": "val/accuracy",
    "report": {"regret": {"settings": "task", "grid": "AdamW", "chose_constants": []}},
}


def test_the_table_says_what_is_known_of_each_run(
    traced: tuple[Path, list[Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = tmp_path / "study.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    runs = expand_runs(load_study(file))
    losses = {"1e-4": 0.5, "2e-4": 0.4}
    with ResultsFile(output / "results.sqlite") as store:
        for run in runs:
            best = {"val/loss": losses.get(run.cell.labels.get("rate", ""), 0.45), "val/accuracy": 0.8}
            store.record(Result(run.id, FINISHED, "", run.cell.labels, 0, best, best, processor_seconds=1.0))
    folder = run_folder(output, runs[-1])
    folder.mkdir(parents=True)
    (folder / FILE).write_text((traced[0] / FILE).read_text())
    main([str(file), "--output", str(output)])
    table = pd.read_parquet(output / "rate_traces.parquet")
    known = table[["setting", "seed", "model", "batch_size", "best_rate"]].drop_duplicates().values.tolist()
    assert known == [["easy", 0, "tiny", 8, 2e-4]]
    assert f"{len(table)} searches in 1 runs" in capsys.readouterr().out


def test_runs_without_a_trace_are_one_line(tmp_path: Path) -> None:
    file, output = tmp_path / "study.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    ResultsFile(output / "results.sqlite").close()
    with pytest.raises(SystemExit, match=r"no run has a rate_trace\.csv"):
        main([str(file), "--output", str(output)])


def test_a_study_that_is_none_or_was_not_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, output = tmp_path / "study.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    for study, complaint in ((tmp_path / "none.yaml", "none.yaml: no such file"), (file, "there is no results.sqlite")):
        with pytest.raises(SystemExit):
            main([str(study), "--output", str(output)])
        assert complaint in capsys.readouterr().err.splitlines()[-1]
    assert not output.exists()
