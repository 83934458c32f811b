"""What is exported is loaded by transformers alone, and predicts what the classifier does."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from lightning.pytorch import Trainer
from tokenizers import Tokenizer, models
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from datamodules import TextDataModule
from lightning_modules import BottleneckConfig, ModelError, SequenceClassifier
from lightning_modules.trained_model.export import fold_targets, new_folder
from lightning_modules.trained_model.model_card import model_card
from tests.architectures import save_pretrained_backbone
from tests.tiny_texts import LABELS, tiny_classifier, tiny_texts, tiny_tokenizer

ARCHITECTURES = ("bert", "roberta", "distilbert", "deberta-v2", "modernbert", "gpt2", "llama")
TEXTS = tiny_texts(9)
PAIRS = list(zip(tiny_texts(5, 6, seed=1), tiny_texts(5, 6, seed=2), strict=True))

# A process in which linetune cannot be imported; it gets cases as JSON and answers with the pipelines' outputs.
ALONE = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("linetune", "lightning_modules", "optimizers", "callbacks", "datamodules", "cli"):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
import torch
from transformers import pipeline

torch.set_num_threads(1)
answers = []
for case in json.load(sys.stdin):
    classify = pipeline("text-classification", model=case["folder"], device="cpu")
    inputs = [text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]} for text in case["texts"]]
    # One by one and in padded batches.
    answers.append([classify(inputs, top_k=None), classify(inputs, top_k=None, batch_size=4)])
print(json.dumps(answers))
"""


def pipelines_alone(cases: list[dict[str, Any]], cwd: Path) -> list[list[list[list[dict[str, Any]]]]]:
    command = [sys.executable, "-I", "-c", ALONE]
    done = subprocess.run(command, input=json.dumps(cases), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def train_a_little(module: SequenceClassifier) -> None:
    """Move what trains, so that adapters are not at their start, where they change nothing."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


def setup_with_targets(module: SequenceClassifier, mean: float, std: float) -> None:
    """Give a module the mean and deviation of a training split, as a fit does."""
    data = SimpleNamespace(label_statistics={"mean": mean, "std": std})
    module._trainer = SimpleNamespace(datamodule=data, callbacks=[], log_every_n_steps=50)  # type: ignore[assignment]
    module.setup("fit")
    module._trainer = None


@pytest.mark.slow
def test_a_process_without_linetune_predicts_the_same(tmp_path: Path) -> None:
    cases, expected = [], []
    lora = {"adapter": peft.LoraConfig(r=2, target_modules="all-linear")}
    for architecture in ARCHITECTURES:
        for name, arguments in (("full", {}), ("lora", lora)):
            for problem, num_labels, texts in (
                ("single_label_classification", 3, TEXTS),
                ("single_label_classification", 2, PAIRS),
                ("multi_label_classification", 3, TEXTS),
                ("regression", 1, TEXTS),
            ):
                at = tmp_path / f"{architecture}-{name}-{problem}-{num_labels}"
                module = tiny_classifier(at / "start", architecture, num_labels, problem_type=problem, **arguments)
                train_a_little(module)
                if problem == "regression":
                    setup_with_targets(module, mean=5.5, std=2.0)
                module.export(at / "model")
                cases.append({"folder": str(at / "model"), "texts": texts})
                expected.append((num_labels, module.predict_texts(texts)))
    for case, (num_labels, wanted), answer in zip(cases, expected, pipelines_alone(cases, tmp_path), strict=True):
        for found in answer:
            for row, text in zip(found, wanted, strict=True):
                scores = {entry["label"]: entry["score"] for entry in row}
                own = {"LABEL_0": text["score"]} if num_labels == 1 else text["probabilities"]
                assert scores == pytest.approx(own, abs=1e-5), case["folder"]
        assert num_labels == 1 or tuple(wanted[0]["probabilities"]) == LABELS[num_labels]


def test_an_exported_folder_is_read_back_with_its_labels_and_its_task(tmp_path: Path) -> None:
    for problem, num_labels in (
        ("single_label_classification", 3),
        ("multi_label_classification", 3),
        ("regression", 1),
    ):
        module = tiny_classifier(tmp_path / problem, num_labels=num_labels, problem_type=problem)
        restored = SequenceClassifier.from_exported(module.export(tmp_path / f"{problem}-model"))
        assert restored.predict_texts(TEXTS) == module.predict_texts(TEXTS)
        assert (restored.problem_type, restored.num_labels) == (problem, num_labels)
        assert restored.new_parameter_names == ()
    assert (
        "labels"
        in SequenceClassifier.from_exported(tmp_path / "multi_label_classification-model").predict_texts(TEXTS)[0]
    )
    with pytest.raises(ModelError, match=r"^model: no configuration found for '/nowhere'"):
        SequenceClassifier.from_exported("/nowhere")
    with pytest.raises(ModelError, match=r"does not say what its task is; give num_labels and problem_type$"):
        SequenceClassifier.from_exported(save_pretrained_backbone(tmp_path / "backbone", "bert"))


@pytest.mark.slow
def test_onnxruntime_predicts_the_same_for_any_batch_and_length(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    for architecture in ("bert", "deberta-v2", "gpt2"):  # token types, relative positions, a decoder
        module = tiny_classifier(tmp_path / architecture, architecture, 3)
        folder = module.export(tmp_path / f"{architecture}-model", onnx=True)
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        tokenizer = tiny_tokenizer(architecture)
        for texts in (TEXTS, TEXTS[:1], tiny_texts(3, 20, seed=5), PAIRS):
            columns = [texts] if isinstance(texts[0], str) else [list(column) for column in zip(*texts, strict=True)]
            batch = tokenizer(*columns, padding=True, return_tensors="pt")
            (logits,) = session.run(
                ["logits"], {entry.name: batch[entry.name].numpy() for entry in session.get_inputs()}
            )
            with torch.no_grad():
                expected = module.eval()(dict(batch)).numpy()
            assert logits == pytest.approx(expected, abs=1e-4), architecture


@pytest.mark.slow
def test_lightnings_to_onnx_writes_the_exporters_file(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module, file = tiny_classifier(tmp_path / "bert", "bert", 3), tmp_path / "classifier.onnx"
    for _ in range(2):
        assert module.to_onnx(file) == file
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    batch = tiny_tokenizer("bert")(TEXTS, padding=True, return_tensors="pt")
    (logits,) = session.run(["logits"], {entry.name: batch[entry.name].numpy() for entry in session.get_inputs()})
    with torch.no_grad():
        assert logits == pytest.approx(module.eval()(dict(batch)).numpy(), abs=1e-4)
    assert {path.name for path in tmp_path.iterdir()} == {"bert", "classifier.onnx"}


def test_what_lightnings_to_onnx_does_not_take_is_one_line(tmp_path: Path) -> None:
    module = tiny_classifier(tmp_path / "bert", "bert", 3)
    with pytest.raises(ModelError, match=r"^to_onnx: input_sample, dynamo is not taken; give a path"):
        module.to_onnx(tmp_path / "classifier.onnx", {"input_ids": torch.ones(1, 2)}, dynamo=True)  # type: ignore
    with pytest.raises(ModelError, match=r"^to_onnx: BytesIO is not taken; give a path"):
        module.to_onnx(BytesIO())  # type: ignore[arg-type]


def test_targets_mean_and_deviation_go_into_the_last_layer(tmp_path: Path) -> None:
    module = tiny_classifier(tmp_path / "start", "roberta", 1)
    before = torch.tensor([text["score"] for text in module.predict_texts(TEXTS)])
    setup_with_targets(module, mean=5.5, std=2.0)
    folder = module.export(tmp_path / "model")
    after = torch.tensor([text["score"] for text in SequenceClassifier(str(folder), 1).predict_texts(TEXTS)])
    torch.testing.assert_close(after, 5.5 + 2.0 * before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("adapter", [None, peft.LoraConfig(r=1, target_modules="all-linear")])
def test_a_head_without_bias_has_targets_scaled_alone(tmp_path: Path, architecture: str, adapter: Any) -> None:
    module = tiny_classifier(tmp_path / "start", architecture, 1, adapter=adapter)
    setup_with_targets(module, mean=3.0, std=4.0)
    has_bias = architecture not in ("gpt2", "llama")
    assert (module.target_mean, module.target_std) == ((3.0, 4.0) if has_bias else (0.0, 5.0))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_last_layer_is_found_in_every_architecture(tmp_path: Path, architecture: str) -> None:
    module = tiny_classifier(tmp_path / "start", architecture, 1)
    before = torch.tensor([text["score"] for text in module.predict_texts(TEXTS)])
    fold_targets(module.model, 0.0, 3.0)
    after = torch.tensor([text["score"] for text in module.predict_texts(TEXTS)])
    torch.testing.assert_close(after, 3.0 * before)


def test_a_mean_needs_a_bias(tmp_path: Path) -> None:
    module = tiny_classifier(tmp_path / "start", "llama", 1)
    with pytest.raises(ModelError, match=r"^export: the last layer of LlamaFor\w+ has no bias, .* mean of 4 needs$"):
        fold_targets(module.model, 4.0, 1.0)
    with pytest.raises(ModelError, match=r"^export: 0 layers with one output in Linear; one is expected$"):
        fold_targets(torch.nn.Linear(2, 3), 0.0, 2.0)


def test_other_weights_are_exported_and_the_module_stays_as_it_is(tmp_path: Path) -> None:
    module = tiny_classifier(tmp_path / "start", adapter=peft.LoraConfig(r=2, target_modules="all-linear"))
    train_a_little(module)
    best, expected = {name: value.clone() for name, value in module.state_dict().items()}, module.predict_texts(TEXTS)
    train_a_little(module)
    last = {name: value.clone() for name, value in module.state_dict().items()}
    folder = module.export(tmp_path / "model", weights=best)
    adapter = module.save_adapter(tmp_path / "adapter", weights=best)
    for name, value in module.state_dict().items():
        assert torch.equal(value, last[name])
    assert type(module.model).__name__.startswith("Peft")
    assert module.training
    for restored in (
        SequenceClassifier.from_exported(folder),
        SequenceClassifier(str(tmp_path / "start"), label_names=LABELS[2], adapter=str(adapter)),
    ):
        for found, wanted in zip(restored.predict_texts(TEXTS, tiny_tokenizer()), expected, strict=True):
            assert found["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-5)
    assert module.predict_texts(TEXTS) != expected
    with pytest.raises(ModelError, match=r"^export: the weights are of another model: "):
        module.export(tmp_path / "other", weights={"model.x": torch.zeros(1)})
    assert not (tmp_path / "other").exists()


def test_what_transformers_cannot_express_is_refused(tmp_path: Path) -> None:
    module = tiny_classifier(tmp_path / "start", adapter=BottleneckConfig(size=4))
    assert not module.can_be_exported
    with pytest.raises(ModelError, match="a BottleneckConfig adapter cannot be merged"):
        module.export(tmp_path / "model")
    with pytest.raises(ModelError, match=r"^adapter: the module was made without one$"):
        tiny_classifier(tmp_path / "plain").save_adapter(tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "start"]


def test_a_model_without_tokenizer_is_refused(tmp_path: Path) -> None:
    module = tiny_classifier(tmp_path / "start")
    for file in (tmp_path / "start").glob("*token*"):
        file.unlink()
    for use in (lambda: module.export(tmp_path / "model"), lambda: module.predict_texts(TEXTS)):
        with pytest.raises(ModelError, match=r"^tokenizer: .* has no tokenizer files; give tokenizer$"):
            use()
    assert not (tmp_path / "model").exists()


def test_the_tokenizer_pads_and_cuts_as_the_training_did(tmp_path: Path) -> None:
    module = tiny_classifier(tmp_path / "start", "gpt2")
    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.pad_token = None
    folder = module.export(tmp_path / "model", tokenizer, facts={"max_length": 5})
    written = json.loads((folder / "tokenizer_config.json").read_text())
    assert (written["pad_token"], written["model_max_length"]) == ("[PAD]", 5)
    assert (tokenizer.pad_token, tokenizer.model_max_length) == (None, 24)
    restored = SequenceClassifier(str(folder))
    long = "w1 w2 w3 w4 w5 w6"
    assert restored.predict_texts([long])[0]["score"] == pytest.approx(restored.predict_texts([long[:8]])[0]["score"])


@pytest.mark.parametrize("earlier", [{"padding": "max_length", "max_length": 20, "truncation": True}, {}])
def test_the_file_of_the_tokenizer_does_not_state_its_last_call(tmp_path: Path, earlier: dict[str, Any]) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer("w1 w2", **earlier)
    folder = tiny_classifier(tmp_path / "start").export(tmp_path / "model", tokenizer, facts={"max_length": 5})
    alone = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert [len(alone.encode(text).ids) for text in ("w1", "w1 w2 w3 w4 w5 w6")] == [3, 5]


def test_a_word_does_not_become_the_padding_token(tmp_path: Path) -> None:
    """A configuration counts the padding token as the first; in a tokenizer of one's own that may be a word."""
    backend = Tokenizer(models.WordPiece({"a": 0, "##b": 1, "ab": 2, "[UNK]": 3, "[PAD]": 4}, unk_token="[UNK]"))
    own = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", model_max_length=24)
    module = tiny_classifier(tmp_path / "start")
    folder = module.export(tmp_path / "model", own)
    restored = SequenceClassifier.from_exported(folder)
    assert restored.own_tokenizer("ab")["input_ids"] == own("ab")["input_ids"] == [2]
    assert restored.predict_texts(["ab", "a"]) == module.predict_texts(["ab", "a"], own)


def test_an_exported_model_is_trained_further_on_longer_texts(tmp_path: Path) -> None:
    """Its tokenizer cuts as the first training did, which is no limit of the model."""
    module = tiny_classifier(tmp_path / "start")
    facts = {"max_length": 5, "reading": {"max_length": 5}}
    folder = module.export(tmp_path / "model", tiny_tokenizer(), facts=facts)
    rows = "".join(f"{' '.join(['w1'] * 12)} w{row},{'good' if row % 2 else 'bad'}\n" for row in range(20))
    (tmp_path / "train.csv").write_text(f"text,label\n{rows}")
    data = TextDataModule(str(tmp_path / "train.csv"), max_length=20, cache_dir=str(tmp_path / "cache"))
    options: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(max_steps=1, enable_checkpointing=False, limit_val_batches=0, **options)
    further = SequenceClassifier.from_exported(folder)
    trainer.fit(further, data)
    assert data.train_dataloader().collate_fn([data.datasets["train/train"][0]])["input_ids"].shape == (1, 15)
    # Exported without a length, it cuts where the model ends.
    again = further.export(tmp_path / "again", data.tokenizer)
    assert json.loads((again / "tokenizer_config.json").read_text())["model_max_length"] == 32
    too_long = TextDataModule(str(tmp_path / "train.csv"), max_length=64, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=r"^max_length: 64 tokens are more than this .*; at most 32 "):
        trainer.fit(further, too_long)


def test_the_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def write_half() -> None:
        with new_folder(tmp_path / "model") as unfinished:
            (unfinished / "config.json").write_text("{}")
            assert not (tmp_path / "model").exists()
            raise ZeroDivisionError

    left = tmp_path / f".model.{os.getpid()}"  # by a killed process of this number
    left.mkdir()
    (left / "model.safetensors").touch()
    with pytest.raises(ZeroDivisionError):
        write_half()
    assert not list(tmp_path.iterdir())

    module = tiny_classifier(tmp_path / "start")
    (tmp_path / "empty").mkdir()
    module.export(tmp_path / "empty")
    files = {path.name for path in (tmp_path / "empty").iterdir()}
    assert files == {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    with pytest.raises(ModelError, match=r"^export: .*empty exists; name a new or an empty folder$"):
        module.export(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"^export: cannot make .*file/model: Not a directory$"):
        module.export(tmp_path / "file" / "model")


def export_under_limit(module: SequenceClassifier, folder: Path, limit: int, results: Any) -> None:
    """Export where no file may be longer than ``limit`` bytes, as on a disk that is nearly full."""
    vocabulary = {f"word{number}": number for number in range(20_000)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="word3")), pad_token="word0"
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        module.export(folder, tokenizer)
    except ModelError as error:
        results.put(str(error))


@pytest.mark.parametrize(
    "limit",
    [pytest.param(100, id="config"), pytest.param(5_000, id="weights"), pytest.param(200_000, id="tokenizer")],
)
def test_a_folder_that_does_not_fit_is_one_line_and_nothing_is_left(tmp_path: Path, limit: int) -> None:
    module = tiny_classifier(tmp_path / "start")
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    writer = context.Process(target=export_under_limit, args=(module, tmp_path / "model", limit, results))
    writer.start()
    writer.join()
    assert writer.exitcode == 0
    assert results.get() == f"export: cannot write {tmp_path / 'model'}: File too large; nothing of it is left"
    assert [path.name for path in tmp_path.iterdir()] == ["start"]


def test_the_model_card_states_what_is_known(tmp_path: Path) -> None:
    facts = {
        "data": {"train_file": "reviews.csv", "text_columns": ["text"], "training rows": 9000},
        "metrics": {"val/accuracy": 0.925},
        "optimizer": {"class": "ParabolicAdam", "weight_decay": 0.01},
        "step_sizes": {"model": {"largest": 3.2e-5, "last": 1.0e-7}},
        "searched": True,
        "checkpoint": "the best checkpoint, step 300",
        "max_length": 20,
        "temperature": 1.25,
    }
    module = tiny_classifier(tmp_path / "start", num_labels=3)
    card = (module.export(tmp_path / "model", facts=facts) / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: text-classification\n")
    for line in (
        "3 labels: `low`, `middle`, `high`.",
        'classify("Some text.", top_k=None, truncation=True)',
        "Training cut texts at 20 tokens, and so does `truncation=True`.",
        "- train_file: reviews.csv\n- text_columns: text\n- training rows: 9000",
        "- val/accuracy: 0.925",
        "Weights: the best checkpoint, step 300.",
        "Optimizer: `ParabolicAdam`.",
        "Step sizes, found by the optimizer:",
        "| model | 3.2e-05 | 1e-07 |",
        "Temperature 1.25",
    ):
        assert line in card
    bare = (tiny_classifier(tmp_path / "one", num_labels=1).export(tmp_path / "bare") / "README.md").read_text()
    assert bare.count("Not recorded.") == 3
    assert "base_model" not in bare


def test_the_model_card_says_how_long_texts_were_read() -> None:
    config = PretrainedConfig(problem_type="regression")
    cut = {"max_length": 20, "reading": {"long_texts": "truncate", "max_windows": 8}}
    assert "Training cut texts at 20 tokens, and so does `truncation=True`." in model_card(config, "", cut)
    windows = model_card(config, "", {"max_length": 20, "reading": {"long_texts": "windows", "max_windows": 8}})
    assert "the mean over up to 8 windows of 20 tokens of a text; `truncation=True` keeps the first window" in windows
    assert "cut texts" not in windows


def test_a_folder_that_training_began_with_is_no_model_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "model").mkdir(parents=True)
    config = PretrainedConfig(problem_type="regression")
    assert "base_model" not in model_card(config, "runs/model", {})
    assert "fine-tuned from `bert`" in model_card(config, "/home/somebody/models/bert/", {})
    assert "\nbase_model: google/bert\n" in model_card(config, "google/bert", {})
