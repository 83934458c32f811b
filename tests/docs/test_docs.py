"""The pages' own code: what they show can be pasted and runs."""

from __future__ import annotations

import csv
import doctest
import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

import cli
import optimizers
from benchmarks.study.grid import expand_cells
from benchmarks.study.study_file import load_study
from lightning_modules import SequenceClassifier
from lightning_modules.models.packaged_models import packaged_folder
from linetune import PACKAGES
from tests.quiet_trainer import quiet_trainer

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def save_tiny_config(folder: Path) -> str:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertConfig(vocab_size=30522, max_position_embeddings=128, **sizes).save_pretrained(folder)
    return str(folder)


def modules_of(page: str) -> list[str]:
    """The blocks of a page that are whole modules: they start with a docstring."""
    return re.findall(r"```python\n(\"\"\".*?)```", (DOCS / page).read_text(), re.DOTALL)


def module_of(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def with_examples() -> list[str]:
    """The modules whose docstrings have examples with their results."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    found = [file.relative_to(ROOT) for file in files if ">>> " in file.read_text(encoding="utf-8")]
    return [".".join(file.with_suffix("").parts) for file in found]


@pytest.mark.parametrize("module", with_examples())
def test_an_example_of_a_docstring_has_the_result_that_it_shows(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted
    assert not result.failed


PAGE = "adding_an_optimizer.md"


@pytest.mark.slow
def test_the_optimizer_of_the_page_has_the_common_properties(tmp_path: Path) -> None:
    (tmp_path / "best_of.py").write_text(modules_of(PAGE)[0])
    entry = re.search(r'"best_of": BestOf,', (DOCS / PAGE).read_text())
    assert entry
    lines = ["from best_of import BestOf", "from tests.optimizers.all_optimizers import OPTIMIZERS"]
    (tmp_path / "one_more.py").write_text("\n".join([*lines, f"OPTIMIZERS.update({{{entry.group()}}})", ""]))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "one_more", "-p", "no:cacheprovider", "-k", "best_of"]
    ran = subprocess.run(
        [*command, "tests/optimizers/test_common_properties.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"\b[1-9][0-9] passed", ran.stdout), ran.stdout


def test_the_config_of_the_page_trains_with_the_optimizer_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "best_of.py").write_text(modules_of(PAGE)[0])
    best_of = module_of(tmp_path / "best_of.py", "best_of").BestOf
    monkeypatch.setattr(optimizers, "BestOf", best_of, raising=False)
    (block,) = re.findall(r"```yaml\n(.*?)```", (DOCS / PAGE).read_text(), re.DOTALL)
    (tmp_path / "best_of.yaml").write_text(block)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["cli.py"])
    arguments = ["--config", "configs/quickstart.yaml", "--config", str(tmp_path / "best_of.yaml")]
    arguments += ["--config", "configs/trainer/cpu.yaml", "--model.model", save_tiny_config(tmp_path / "model")]
    arguments += ["--model.pretrained", "false", "--data.tokenizer", "offline:all-MiniLM-L6-v2"]
    arguments += ["--data.max_train_samples", "64", "--data.max_length", "64"]
    arguments += ["--trainer.max_steps", "2", "--trainer.limit_val_batches", "0"]
    arguments += ["--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
    arguments += ["--trainer.default_root_dir", str(tmp_path), "--trainer.callbacks", "null"]
    built = cli.LinetuneCLI(auto_configure_optimizers=False, run=False, args=arguments)
    built.trainer.fit(built.model, built.datamodule)
    (optimizer,) = built.trainer.optimizers
    assert isinstance(optimizer, best_of)
    assert optimizer.last_step.loss_after <= optimizer.last_step.loss_before


def test_the_function_of_the_page_divides_the_groups_of_a_model(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(import pytorch_optimizer\n.*?)```", (DOCS / PAGE).read_text(), re.DOTALL)
    (tmp_path / "mine.py").write_text(block)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
    optimizer = module_of(tmp_path / "mine.py", "mine").muon(optimizers.ParamGroups()(model))
    by_muon = {id(p): group["use_muon"] for group in optimizer.param_groups for p in group["params"]}
    assert by_muon == {id(p): p.ndim == 2 for p in model.parameters()}
    before = [p.clone() for p in model.parameters()]
    model(torch.randn(5, 3)).square().mean().backward()
    optimizer.step()
    assert not any(map(torch.equal, before, model.parameters()))


def test_the_line_search_of_the_page_searches_in_every_fifth_step(tmp_path: Path) -> None:
    (tmp_path / "sign_search.py").write_text(modules_of(PAGE)[1])
    weights = torch.tensor([1.0, -2.0], requires_grad=True)
    optimizer = module_of(tmp_path / "sign_search.py", "sign_search").SignSearch([weights])
    losses, searched = [], []
    for _ in range(15):

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = (weights**2).sum()
            loss.backward()
            return loss

        losses.append(float(optimizer.step(closure).detach()))
        searched.append(optimizer.last_step.evaluations > 0)
    assert searched == [True, False, False, False, False] * 3
    assert losses[-1] < losses[0]


def test_the_loader_of_the_page_trains_a_classifier(tmp_path: Path) -> None:
    page = (DOCS / "adding_a_task.md").read_text()
    (block,) = re.findall(r"```python\n(from lightning.*?DataCollatorWithPadding.*?)```", page, re.DOTALL)
    name = save_tiny_config(tmp_path / "tiny")
    AutoTokenizer.from_pretrained(packaged_folder("offline:all-MiniLM-L6-v2")).save_pretrained(name)
    BertModel(BertConfig.from_pretrained(name)).save_pretrained(name)
    rows = Dataset.from_dict({"text": [f"{'very ' * i} good" for i in range(40)], "label": [0, 1] * 20})
    names: dict[str, Any] = {"name": name, "rows": rows}
    training = "Trainer(max_epochs=3).fit(SequenceClassifier(name, num_labels=2), loader)"
    assert training in block
    exec(block.replace(training, ""), names)
    module, trainer = names["SequenceClassifier"](name, num_labels=2), quiet_trainer(max_epochs=3)
    trainer.fit(module, names["loader"], names["loader"])
    assert trainer.global_step == 6
    assert {"train/loss", "val/loss", "val/accuracy"} <= set(trainer.callback_metrics)


def test_the_language_model_of_the_page_weights_its_batches_by_tokens(tmp_path: Path) -> None:
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 20}
    GPT2LMHeadModel(GPT2Config(bos_token_id=1, eos_token_id=2, **sizes)).save_pretrained(tmp_path / "tiny")
    (tmp_path / "language_model.py").write_text(modules_of("adding_a_task.md")[1])
    page = module_of(tmp_path / "language_model.py", "language_model")
    ids = torch.randint(3, 20, (6, 10))
    labels = torch.where(torch.arange(10) < torch.tensor([[4], [9], [3], [7], [10], [5]]), ids, -100)
    rows = [{"input_ids": one, "labels": other} for one, other in zip(ids, labels, strict=True)]
    module = page.LanguageModel(str(tmp_path / "tiny"), optimizer=optimizers.SaLSA)
    assert all(part.training for part in module.modules())
    trainer = quiet_trainer(max_epochs=1, default_root_dir=tmp_path)
    trainer.fit(module, DataLoader(rows, batch_size=4), DataLoader(rows, batch_size=4))
    with torch.no_grad():
        whole = float(module.eval().compute_loss({"input_ids": ids, "labels": labels}))
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(whole, rel=1e-5)


def test_the_new_head_of_the_pages_tagger_learns_faster(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=20, **sizes)).save_pretrained(tmp_path / "tiny")
    (tmp_path / "tagger.py").write_text(modules_of("adding_a_task.md")[2])
    module = module_of(tmp_path / "tagger.py", "tagger").Tagger(str(tmp_path / "tiny"), num_labels=3)
    assert all(part.training for part in module.modules())
    ids = torch.randint(20, (6, 5))
    rows = [{"input_ids": row, "labels": torch.where(row < 15, row % 3, -100)} for row in ids]
    trainer = quiet_trainer(max_epochs=1, default_root_dir=tmp_path)
    trainer.fit(module, DataLoader(rows, batch_size=3))
    (optimizer,) = trainer.optimizers
    factors = {id(p): group["lr_factor"] for group in optimizer.param_groups for p in group["params"]}
    assert {factors[id(p)] for p in module.model.classifier.parameters()} == {optimizers.ParabolicAdam.new_lr_factor}
    assert {factors[id(p)] for p in module.model.bert.parameters()} == {1.0}


def test_the_data_of_the_page_trains_the_module_and_predicts(tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text(modules_of("adding_a_task.md")[0])
    options = {"tokenizer": "offline:all-MiniLM-L6-v2", "cache_dir": str(tmp_path / "cache")}
    options |= {"train_batch_size": 8, "max_length": 64}
    data = module_of(tmp_path / "sums.py", "sums").Sums(str(tmp_path), rows=40, metrics=["accuracy"], **options)
    assert data.label_names == ["even", "odd"]
    module = SequenceClassifier(
        save_tiny_config(tmp_path / "model"),
        num_labels=data.num_labels,
        label_names=data.label_names,
        metrics=data.metrics,
        pretrained=False,
    )
    trainer = quiet_trainer(max_epochs=1, default_root_dir=tmp_path)
    trainer.fit(module, data)
    assert trainer.global_step == 5
    assert 0 <= float(trainer.callback_metrics["val/accuracy"]) <= 1
    predictions = trainer.predict(module, data)
    assert sorted(torch.cat([each["idx"] for each in predictions]).tolist()) == list(range(20))


def cli_of_the_quickstart(*arguments: str, tmp_path: Path) -> cli.LinetuneCLI:
    """The quickstart's module, data and trainer, small enough for a test."""
    given = ["--config", "configs/quickstart.yaml", "--config", "configs/trainer/cpu.yaml", *arguments]
    given += ["--model.model", save_tiny_config(tmp_path / "model"), "--model.pretrained", "false"]
    given += ["--data.tokenizer", "offline:all-MiniLM-L6-v2", "--data.max_train_samples", "64"]
    given += ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    given += ["--trainer.logger.init_args.save_dir", str(tmp_path / "runs")]
    return cli.LinetuneCLI(auto_configure_optimizers=False, run=False, args=given)


def test_the_loss_and_the_metric_of_the_page_are_those_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    focal, kappa = modules_of("loss_and_metrics.md")
    (by_metric,) = re.findall(r"```yaml\n(trainer:.*?)```", (DOCS / "loss_and_metrics.md").read_text(), re.DOTALL)
    (tmp_path / "own_focal.py").write_text(focal)
    (tmp_path / "own_kappa.py").write_text(kappa)
    (tmp_path / "by_metric.yaml").write_text(by_metric.replace("val/accuracy", "val/kappa"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["cli.py"])
    built = cli_of_the_quickstart("--model", "own_focal.FocalClassifier", tmp_path=tmp_path)
    batch = {"input_ids": torch.randint(200, (6, 9)), "attention_mask": torch.ones(6, 9, dtype=torch.long)}
    module, labels = built.model.eval(), torch.arange(6) % 2
    shares = module(batch).softmax(dim=-1)[range(6), labels]
    expected = ((1 - shares) ** 2 * -shares.log()).mean()
    torch.testing.assert_close(module.compute_loss(batch | {"labels": labels}), expected)

    arguments = ["--config", str(tmp_path / "by_metric.yaml"), "--model", "own_kappa.KappaClassifier"]
    built = cli_of_the_quickstart(*arguments, tmp_path=tmp_path)
    built.trainer.fit(built.model, built.datamodule)
    metrics = built.trainer.callback_metrics
    assert {"val/kappa", "val/accuracy"} <= set(metrics)
    assert built.trainer.checkpoint_callback.best_model_score == metrics["val/kappa"]
    assert Path(built.trainer.checkpoint_callback.best_model_path).name == "best.ckpt"


def test_the_studies_of_the_page_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, texts = re.findall(r"```yaml\n(.*?)```", (DOCS / "studies.md").read_text(), re.DOTALL)
    for name, block in (("whole", whole), ("texts", "title: texts\n" + texts)):
        (tmp_path / f"{name}.yaml").write_text(block)
    monkeypatch.chdir(ROOT)
    study = load_study(tmp_path / "whole.yaml")
    assert [cell.name for cell in expand_cells(study)][:3] == [
        "sst2 · SaLSA · 16",
        "sst2 · SaLSA · 32",
        "sst2 · AdamW · 2e-5 · 16",
    ]
    assert len(load_study(tmp_path / "whole.yaml", "full").seeds) == 10
    assert {cell.metric for cell in expand_cells(load_study(tmp_path / "texts.yaml"))} == {"val/macro_f1"}


@pytest.mark.slow
def test_the_figures_of_the_pages_can_be_drawn(tmp_path: Path) -> None:
    module_of(DOCS / "make_figures.py", "make_figures").main(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in (DOCS / "figures").iterdir()}


def test_the_example_script_compares_two_optimizers(tmp_path: Path) -> None:
    example = module_of(DOCS / "examples" / "compare_optimizers.py", "compare_optimizers")
    results = example.compare(
        model=save_tiny_config(tmp_path / "model"),
        pretrained=False,
        tokenizer="offline:all-MiniLM-L6-v2",
        max_train_samples=64,
        max_epochs=1,
    )
    assert set(results) == {"SaLSA", "AdamW"}
    for result in results.values():
        assert set(result) == {"val/loss", "val/accuracy", "seconds"}
        assert all(math.isfinite(value) for value in result.values())


REPORTS = ROOT / "benchmarks" / "results"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted(REPORTS.rglob("*.md"))]


def test_reports_that_are_kept_are_of_one_version_of_the_code_and_small() -> None:
    results = (DOCS / "results.md").read_text()
    for report in REPORTS.rglob("*.md"):
        lines = [line for line in report.read_text().splitlines() if line.startswith("- code: ")]
        assert len(lines) == 1, report
        commit = re.fullmatch(r"- code: all (?:runs|tables) at commit (\w+), one version of the code", lines[0])
        assert commit, f"{report}: {lines[0]}"
        assert commit[1] in results
        assert report.relative_to(REPORTS).as_posix() in results
        for runs in report.parent.glob("runs.csv"):
            with runs.open(newline="") as file:
                assert {row.get("commit", commit[1]) for row in csv.DictReader(file)} == {commit[1]}
    for named in re.findall(r"`(\w+/\w+\.md)`", results):
        assert (REPORTS / named).exists(), named
    assert sum(path.stat().st_size for path in REPORTS.rglob("*") if path.is_file()) < 5 * 2**20


@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_links_and_figures_of_a_page_exist(page: Path) -> None:
    text = page.read_text()
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text) + re.findall(r"```\{figure\} (\S+)", text)
    for target in targets:
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target
    for config in re.findall(r"`((?:schemes|optimizers)/\w+\.yaml)`", text):
        assert (ROOT / "configs" / config).exists(), config
    for path in re.findall(r"\b(?:benchmarks/results/[\w/]+(?:\.\w+)?|configs/[\w/]+\.\w+)", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_sections_that_links_of_a_page_name_exist(page: Path) -> None:
    for target, section in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        assert section in sections(page.parent / target if target else page), f"{target}#{section}"


def sections(page: Path) -> set[str]:
    """Return the names by which links call the sections of a page: those of GitHub and of myst-parser."""
    without_code = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_files_that_the_architecture_names_exist() -> None:
    named = re.findall(r"`((?:\w+/)+\w+\.py)`", (DOCS / "architecture.md").read_text())
    assert len(named) > 30
    for file in named:
        assert (ROOT / file).is_file(), file


def test_every_script_on_a_library_is_named_by_one_surprise() -> None:
    named = re.findall(r"\[script\]\(\.\./findings/(\w+\.sh)\)", (DOCS / "surprises.md").read_text())
    assert sorted(named) == sorted(file.name for file in (ROOT / "findings").iterdir())


def test_every_promise_has_tests_that_exist() -> None:
    guarantees, _, _ = (DOCS / "promises.md").read_text().partition("## Limits")
    promises = re.findall(r"^- .*?(?=^- |^## |\Z)", guarantees, re.DOTALL | re.MULTILINE)
    assert len(promises) > 60
    for promise in promises:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", promise)
        assert named, promise
        for file, test in named:
            assert f"def {test}(" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"
