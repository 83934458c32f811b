"""The rows of TensorBoard's HPARAMS tab, read back by TensorBoard itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.optim import SGD, AdamW

from callbacks import HyperparameterLogger
from lightning_modules import SequenceClassifier
from optimizers import ParabolicAdam
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData, save_tiny_bert


def test_a_finished_run_is_a_row_with_its_metrics(tmp_path: Path) -> None:
    model = save_tiny_bert(tmp_path / "model")
    trainer = fit(tmp_path, model, partial(AdamW, lr=0.25, betas=(0.5, 0.75)))

    row = row_of(trainer)
    assert row["Optimizer"].string_value == "AdamW"
    assert row["optimizer/lr"].number_value == 0.25
    assert row["optimizer/betas"].string_value == "(0.5, 0.75)"
    assert row["optimizer/amsgrad"].string_value == "False"
    assert row["model"].string_value == str(model)
    assert row["adapter"].string_value == "none"
    trained = sum(p.numel() for p in trainer.lightning_module.parameters())
    assert row["trained_parameters"].number_value == trained
    for name in ("accuracy", "loss"):
        last = EventAccumulator(str(trainer.log_dir)).Reload().Scalars(f"hp/{name}")[-1]
        assert last.value == pytest.approx(float(trainer.callback_metrics[f"val/{name}"]))


def test_other_loggers_do_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.summary", None)
    trainer = quiet_trainer(max_steps=1, logger=CSVLogger(tmp_path), callbacks=[HyperparameterLogger()])
    trainer.fit(SequenceClassifier(str(save_tiny_bert(tmp_path / "model"))), TinyData())
    assert trainer.global_step == 1


def test_an_optimizers_state_is_not_among_its_arguments(tmp_path: Path) -> None:
    trainer = fit(tmp_path, save_tiny_bert(tmp_path / "model"), partial(ParabolicAdam, peak_fraction=0.5))

    row = row_of(trainer)
    assert row["optimizer/peak_fraction"].number_value == 0.5
    assert "log_distance" in trainer.optimizers[0].defaults
    assert "optimizer/log_distance" not in row


def test_runs_with_different_optimizers_show_the_columns_of_all_and_what_differs_first(tmp_path: Path) -> None:
    model = save_tiny_bert(tmp_path / "model")
    fit(tmp_path, model, partial(AdamW, lr=0.25))
    fit(tmp_path, model, partial(SGD, lr=0.5, nesterov=True, momentum=0.9))

    columns = {column["name"]: column["differs"] for column in columns_in_tensorboard(tmp_path / "runs")}
    assert {"optimizer/amsgrad", "optimizer/nesterov"} <= columns.keys()
    assert next(iter(columns)) == "Optimizer"
    assert columns["Optimizer"]
    assert columns["optimizer/lr"]
    assert not columns["model"]
    assert list(columns.values()) == sorted(columns.values(), reverse=True)


def fit(folder: Path, model: Path, optimizer: Callable[..., Any]) -> Trainer:
    trainer = quiet_trainer(
        max_epochs=1,
        logger=TensorBoardLogger(str(folder / "runs"), default_hp_metric=False),
        callbacks=[HyperparameterLogger()],
    )
    trainer.fit(SequenceClassifier(str(model), optimizer=optimizer), TinyData())
    return trainer


def row_of(trainer: Trainer) -> Any:
    events = EventAccumulator(str(trainer.log_dir)).Reload()
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    return HParamsPluginData.FromString(content).session_start_info.hparams


def columns_in_tensorboard(folder: Path) -> list[dict[str, Any]]:
    runs = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    provider = MultiplexerDataProvider(runs, str(folder))
    context = Context(TBContext(data_provider=provider, multiplexer=runs, logdir=str(folder)))
    request = RequestContext()
    metadata = context.hparams_metadata(request, "")
    experiment = context.experiment_from_metadata(
        request, "", True, metadata, context.hparams_from_data_provider(request, "", 0)
    )
    return [{"name": info.name, "differs": info.differs} for info in experiment.hparam_infos]
