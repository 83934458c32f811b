"""What StepSizeMonitor writes, read back from loggers."""

from __future__ import annotations

import csv
import os
from functools import partial

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import StepSizeMonitor
from lightning_modules import SequenceClassifier
from optimizers import AdamSLS, ParamGroups, SaLSA
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData, save_tiny_bert


def fit(folder, optimizer, monitor, logger, units="model", **options):
    tiny = str(save_tiny_bert(folder / "m"))
    module = SequenceClassifier(tiny, optimizer=optimizer, param_groups=ParamGroups(units=units), **options)
    trainer = quiet_trainer(max_epochs=3, limit_val_batches=0, logger=logger, callbacks=[monitor])
    trainer.fit(module, TinyData(32, 8))
    return trainer.optimizers[0]


def read_csv(logger):
    with open(f"{logger.log_dir}/metrics.csv") as file:
        return [row for row in csv.DictReader(file) if row.get("search/seconds_per_step")]


def test_every_step_of_every_unit_reaches_the_log(tmp_path):
    logger = CSVLogger(tmp_path)
    make = partial(AdamSLS, update_rule="cycle", joint_steps=2)
    optimizer = fit(tmp_path, make, StepSizeMonitor(), logger, units="layer")
    rows = read_csv(logger)
    assert len(rows) == 12
    units = {group["unit"]: group for group in optimizer.param_groups}
    assert len(units) == 4
    for name, group in units.items():
        assert float(rows[-1][f"search/step_size/{name}"]) == pytest.approx(group["lr"])
        assert float(rows[-1][f"search/smoothed_slope/{name}"]) == pytest.approx(group["average_slope"])
        assert sum(float(row[f"search/trials/{name}"]) for row in rows) == pytest.approx(group["trials"])
        assert sum(float(row[f"search/backtracks/{name}"]) for row in rows) == pytest.approx(group["backtracks"])
        # Two joint searches, then one search every fourth step.
        assert [float(row[f"search/search_frequency/{name}"]) for row in rows[:2]] == [1, 1]
    in_turn = [[float(row[f"search/search_frequency/{name}"]) for name in units] for row in rows[2:]]
    assert all(sum(row) == 1 for row in in_turn)
    assert all(float(row["search/seconds_per_step"]) > 0 for row in rows)


def test_every_few_steps_it_logs_means(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    optimizer = fit(tmp_path, SaLSA, StepSizeMonitor(every_n_steps=5), logger)
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    trials = [event.value for event in events.Scalars("search/trials/model")]
    assert [event.step for event in events.Scalars("search/trials/model")] == [4, 9, 11]
    assert 5 * trials[0] + 5 * trials[1] + 2 * trials[2] == pytest.approx(optimizer.param_groups[0]["trials"])
    interval = events.Scalars("search/search_interval/model")[-1].value
    assert interval == pytest.approx(optimizer.unit_reports()["model"].search_interval)
    frequency = [event.value for event in events.Scalars("search/search_frequency/model")]
    assert frequency[:2] == [1, 1]


def test_accumulated_batches_are_one_step(tmp_path):
    logger = CSVLogger(tmp_path)
    fit(tmp_path, AdamSLS, StepSizeMonitor(), logger, accumulate_grad_batches=2)
    assert len(read_csv(logger)) == 6


def test_an_optimizer_without_records_gets_a_warning_and_no_entry(tmp_path):
    logger = CSVLogger(tmp_path)
    with pytest.warns(UserWarning, match="AdamW keeps no record"):
        fit(tmp_path, partial(torch.optim.AdamW, lr=1e-3), StepSizeMonitor(), logger)
    assert not os.path.exists(f"{logger.log_dir}/metrics.csv")


def test_an_interval_below_one_is_refused():
    with pytest.raises(MisconfigurationException, match="every_n_steps"):
        StepSizeMonitor(every_n_steps=0)
