"""Loading models: packaged weights, folders, configs, and what goes wrong."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, BartConfig

from lightning_modules import ModelError, SequenceClassifier
from lightning_modules.models import packaged_models
from lightning_modules.models.model_config import set_dropout
from lightning_modules.models.pretrained import load_sequence_classifier
from tests.architectures import ARCHITECTURES, tiny_config
from tests.families import family_config
from tests.tiny_models import save_tiny_bert


def test_packaged_weights_load_with_a_new_head_alone() -> None:
    model, new = load_sequence_classifier("offline:all-MiniLM-L6-v2", num_labels=3)
    assert new == ("classifier.bias", "classifier.weight")
    assert model.classifier.out_features == 3
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_packaged_weights_with_another_checksum_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = packaged_models.PACKAGED_MODELS["all-MiniLM-L6-v2"]._replace(sha256="0" * 64)
    monkeypatch.setitem(packaged_models.PACKAGED_MODELS, "all-MiniLM-L6-v2", packaged)
    with pytest.raises(ModelError, match=r"has sha256 53aa5117.*, expected 0000"):
        load_sequence_classifier("offline:all-MiniLM-L6-v2", num_labels=2)


def test_a_folder_loads_in_training_mode_with_nothing_new(tmp_path: Path) -> None:
    model, new = load_sequence_classifier(str(save_tiny_bert(tmp_path)), num_labels=2)
    assert new == ()
    assert all(module.training for module in model.modules())


def test_a_config_alone_gives_random_weights(tmp_path: Path) -> None:
    config = str(save_tiny_bert(tmp_path) / "config.json")
    torch.manual_seed(1)
    first, new = load_sequence_classifier(config, num_labels=2, pretrained=False)
    second, _ = load_sequence_classifier(config, num_labels=2, pretrained=False)
    assert set(new) == {name for name, _ in first.named_parameters()}
    assert not torch.equal(first.classifier.weight, second.classifier.weight)


def test_an_architecture_without_a_classifier_is_one_clear_line(tmp_path: Path) -> None:
    from transformers import MambaConfig

    MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"does not make a sequence classifier: .*MambaConfig") as error:
        load_sequence_classifier(str(tmp_path), num_labels=2, pretrained=False)
    assert "\n" not in str(error.value)


def test_a_decoder_gets_a_padding_token(tmp_path: Path) -> None:
    from transformers import GPT2Config

    GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32, eos_token_id=63).save_pretrained(tmp_path)
    model, _ = load_sequence_classifier(str(tmp_path), num_labels=2, pretrained=False)
    assert model.config.pad_token_id == 63
    assert model(input_ids=torch.randint(60, (3, 5))).logits.shape == (3, 2)


@pytest.mark.parametrize(
    ("name", "num_labels", "message"),
    [
        ("no/such-model", 2, r"no configuration found for 'no/such-model'.*allowed: .*offline:all-MiniLM-L6-v2"),
        ("offline:bert", 2, "'offline:bert' is not a packaged model; allowed: offline:all-MiniLM-L6-v2"),
        ("offline:all-MiniLM-L6-v2", 0, "num_labels: 0 is not allowed"),
    ],
)
def test_a_model_that_is_not_there_is_one_clear_line(name: str, num_labels: int, message: str) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        load_sequence_classifier(name, num_labels)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2"])
@pytest.mark.parametrize("num_labels", [2, 1])
def test_a_head_for_another_number_of_labels_is_new_and_the_rest_is_kept(
    architecture: str, num_labels: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(architecture)
    config.num_labels = 3
    stored = AutoModelForSequenceClassification.from_config(config)
    stored.save_pretrained(tmp_path)
    caplog.set_level(logging.INFO)
    model, new = load_sequence_classifier(str(tmp_path), num_labels)
    of_head = {"bert": "classifier.", "roberta": "classifier.out_proj.", "gpt2": "score."}[architecture]
    own = dict(model.named_parameters())
    assert new == tuple(sorted(name for name in own if name.startswith(of_head)))
    assert all(own[name].shape[0] == num_labels and own[name].isfinite().all() for name in new)
    assert all(torch.equal(own[name], kept) for name, kept in stored.named_parameters() if name not in new)
    (said,) = caplog.messages
    assert f"{of_head}weight (there for 3 labels)" in said


def test_weights_that_do_not_fit_the_configuration_are_refused(tmp_path: Path) -> None:
    folder = save_tiny_bert(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 65}))
    with pytest.raises(ModelError, match=r"do not fit its configuration: .*word_embeddings.* is \(64, 16\)") as raised:
        load_sequence_classifier(str(folder), num_labels=2)
    assert "\n" not in str(raised.value)


def test_a_saved_model_carries_the_labels_names(tmp_path: Path) -> None:
    folder = str(save_tiny_bert(tmp_path / "first", num_labels=3))
    module = SequenceClassifier(folder, num_labels=2, label_names=["entailment", "not_entailment"])
    module.model.save_pretrained(tmp_path / "second")
    config = AutoConfig.from_pretrained(tmp_path / "second")
    assert config.id2label == {0: "entailment", 1: "not_entailment"}
    assert config.label2id == {"entailment": 0, "not_entailment": 1}
    assert module.hparams["label_names"] == ["entailment", "not_entailment"]
    with pytest.raises(ModelError, match=r"label_names: 2 names for 3 labels"):
        load_sequence_classifier(folder, num_labels=3, label_names=["entailment", "not_entailment"])
    with pytest.raises(ModelError, match=r"^label_names: 'no' is given twice; give each label a name of its own$"):
        SequenceClassifier(folder, num_labels=3, label_names=["no", "yes", "no"])


def test_names_of_labels_may_be_numbers(tmp_path: Path) -> None:
    module = SequenceClassifier(str(save_tiny_bert(tmp_path)), label_names=[1, 5])  # type: ignore[list-item]
    assert module.label_names == ("1", "5")
    assert module.model.config.label2id == {"1": 0, "5": 1}
    assert module.hparams["label_names"] == ["1", "5"]


def test_labels_in_another_order_are_refused(tmp_path: Path) -> None:
    folder = str(save_tiny_bert(tmp_path, num_labels=3, id2label={0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"}))
    task = ["entailment", "neutral", "contradiction"]
    with pytest.raises(ModelError, match=r"another order, contradiction, neutral, entailment, than .*, entailment, "):
        load_sequence_classifier(folder, num_labels=3, label_names=task)
    assert load_sequence_classifier(folder, num_labels=3, label_names=task[::-1]).model.config.id2label[0] == task[-1]
    # Other labels are another task; fewer, another head; and random weights have no order.
    load_sequence_classifier(folder, num_labels=3, label_names=["a", "b", "c"])
    load_sequence_classifier(folder, num_labels=2, label_names=["entailment", "contradiction"])
    load_sequence_classifier(folder, num_labels=3, label_names=task, pretrained=False)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = save_tiny_bert(tmp_path)
    weights = folder / "model.safetensors"
    torch.save({}, folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelError, match="could not be loaded from safetensors"):
        load_sequence_classifier(str(folder), num_labels=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches: 0"),
        ({"lr_scheduler": torch.optim.lr_scheduler.LinearLR}, r"give lightning_modules\.Schedule\(LinearLR\)"),
        ({"metrics": ["bleu"]}, "metrics: 'bleu'"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        SequenceClassifier(str(save_tiny_bert(tmp_path)), **arguments)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dropout_is_set_whatever_an_architecture_calls_it(architecture: str, tmp_path: Path) -> None:
    tiny_config(architecture).save_pretrained(tmp_path)
    model = load_sequence_classifier(str(tmp_path / "config.json"), 2, pretrained=False, dropout=0.0).model
    rates = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert not any(rates)
    batch = {"input_ids": torch.randint(3, 60, (4, 9)), "attention_mask": torch.ones(4, 9, dtype=torch.int64)}
    assert torch.equal(model.train()(**batch).logits, model(**batch).logits)
    with pytest.raises(ModelError, match=r"dropout: 1.0 is not allowed"):
        load_sequence_classifier(str(tmp_path / "config.json"), 2, pretrained=False, dropout=1.0)


def test_dropout_is_not_the_skipping_of_layers() -> None:
    config = BartConfig(encoder_layerdrop=0.0, decoder_layerdrop=0.2, drop_path_rate=0.3)
    set_dropout(config, 0.1)
    assert (config.dropout, config.attention_dropout, config.classifier_dropout) == (0.1, 0.1, 0.1)
    assert (config.encoder_layerdrop, config.decoder_layerdrop, config.drop_path_rate) == (0.0, 0.2, 0.3)


@pytest.mark.parametrize("family", ["bert", "t5gemma", "t5gemma2", "gemma3"])
def test_dropout_reaches_nested_configurations(family: str) -> None:
    config = family_config(family)
    set_dropout(config, 0.25)
    model = AutoModelForSequenceClassification.from_config(config)
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} <= {0.25}
    rates = [module.attention_dropout for module in model.modules() if hasattr(module, "attention_dropout")]
    assert all(rate == 0.25 for rate in rates)
    assert rates or family == "bert"


def test_dropout_says_where_it_does_not_reach() -> None:
    """transformers 5.23.0 declares MPT's attn_pdrop an integer and checks it: of the probabilities it takes 0 alone."""
    config = family_config("mpt")
    with pytest.warns(
        UserWarning, match=r"^dropout: MptAttentionConfig\.attn_pdrop stays 0: .*expected int, got float"
    ):
        set_dropout(config, 0.25)
    assert config.attn_config.attn_pdrop == 0
    assert config.resid_pdrop == config.emb_pdrop == 0.25
