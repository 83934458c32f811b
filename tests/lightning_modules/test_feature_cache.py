"""Features on disk: the same logits, each example computed once, and nothing used for what it does not belong to."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from lightning_modules import ModelError, SequenceClassifier
from lightning_modules.features.feature_cache import FeatureCache, default_feature_cache_dir
from lightning_modules.features.frozen_encoder import FrozenEncoder
from optimizers import GLD
from tests.architectures import ARCHITECTURES, tiny_model
from tests.lightning_modules.test_frozen_encoder import batch_of, counted, head_only, logits
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData, save_tiny_bert


def cache_of(model, folder):
    encoder = FrozenEncoder(model, lambda batch: logits(model, {k: v for k, v in batch.items() if k != "idx"}))
    return encoder._forward, FeatureCache(encoder, model, encoder._forward, folder)


def embeddings(model):
    return counted([m for m in model.modules() if isinstance(m, nn.Embedding)][:1])


def numbered(batch, *rows):
    return {name: tensor[list(rows)] for name, tensor in (batch | {"idx": torch.arange(5)}).items()}


@pytest.mark.parametrize("mode", ["head", "new"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_those_of_the_whole_model(architecture, mode, tmp_path):
    model, batch = head_only(architecture, mode).eval(), batch_of()
    expected = logits(model, batch)
    for attempt in range(2):
        forward, cache = cache_of(model, tmp_path)
        for chosen in ([0, 1, 2], [3, 4], [4, 0, 2]):
            part = numbered(batch, *chosen)
            features = cache.features("train", part)
            calls = embeddings(model)
            with features.reused():
                result = forward(part)
            assert calls[0] == 0
            torch.testing.assert_close(result, expected[chosen], rtol=1e-4, atol=1e-6)
        if attempt == 0:
            assert len(list(tmp_path.iterdir())) == 1


def test_the_encoder_runs_once_per_example_across_processes(tmp_path):
    model, batch = head_only("bert"), batch_of()
    _, cache = cache_of(model, tmp_path)
    cache.features("train", numbered(batch, 0, 1))  # also finds out what the head reads
    calls = embeddings(model)
    cache.features("train", numbered(batch, 0, 1))
    cache.features("train", numbered(batch, 1, 0))
    assert calls[0] == 0
    rows = []
    model.bert.embeddings.register_forward_hook(lambda *call: rows.append(len(call[2])))
    cache.features("train", numbered(batch, 1, 2))
    assert calls[0] == 1
    assert rows == [1]  # the example that is new
    cache.features("val0", numbered(batch, 1, 2))  # another split
    assert calls[0] == 2
    _, another = cache_of(model, tmp_path)
    another.features("train", numbered(batch, 0, 1, 2))
    another.features("train", numbered(batch, 2, 0))
    before = calls[0]
    another.features("train", numbered(batch, 0, 2, 1))
    assert calls[0] == before


def test_every_input_by_token_is_cut_with_the_tokens(tmp_path):
    model, batch = head_only("bert").eval(), batch_of()
    shortest = int(batch["attention_mask"].sum(dim=1).argmin())
    width = batch["attention_mask"].shape[1]
    assert int(batch["attention_mask"][shortest].sum()) < width
    batch["position_ids"] = torch.arange(width).flip(0).expand(5, -1)
    expected = logits(model, batch)[[shortest]]
    forward, cache = cache_of(model, tmp_path)
    part = numbered(batch, shortest)
    with cache.features("train", part).reused():
        torch.testing.assert_close(forward(part), expected, rtol=1e-4, atol=1e-6)


def test_padding_is_no_part_of_an_example(tmp_path):
    model, batch = head_only("bert").eval(), batch_of()
    forward, cache = cache_of(model, tmp_path)
    cache.features("train", numbered(batch, 0, 1))
    expected = logits(model, batch)[1:2]
    trimmed = {k: v[:, :6] if v.ndim == 2 else v for k, v in numbered(batch, 1).items()}  # its six tokens
    calls = embeddings(model)
    features = cache.features("train", trimmed)
    assert calls[0] == 0
    with features.reused():
        torch.testing.assert_close(forward(trimmed), expected)


def test_large_batches_are_computed_in_pieces_of_similar_length(tmp_path):
    model = head_only("bert").eval()
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 20, (150,), generator=generator)
    mask = (torch.arange(20) < lengths[:, None]).long()
    batch = {"input_ids": torch.randint(3, 64, (150, 20), generator=generator) * mask, "attention_mask": mask}
    expected = logits(model, batch)
    shapes = []
    model.bert.embeddings.register_forward_hook(lambda *call: shapes.append(call[2].shape[:2]))
    forward, cache = cache_of(model, tmp_path)
    batch["idx"] = torch.randperm(150, generator=generator)
    features = cache.features("train", batch)
    pieces = [tuple(shape) for shape in shapes if shape[0] > 2]
    assert [size for size, _ in pieces] == [64, 64, 22]
    assert [length for _, length in pieces] == sorted(length for _, length in pieces)
    assert pieces[0][1] < 12
    with features.reused():
        torch.testing.assert_close(forward(batch), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("change", ["tokens", "weights", "fingerprint", "length"])
def test_features_of_something_else_are_not_used(change, tmp_path):
    model, batch = head_only("bert").eval(), batch_of()
    _, cache = cache_of(model, tmp_path)
    cache.features("train", numbered(batch, 0, 1), "one")
    if change == "tokens":
        batch["input_ids"][0, 3] += 1
    if change == "length":
        batch["attention_mask"][0, 5:] = 0
    if change == "weights":
        with torch.no_grad():
            model.bert.encoder.layer[0].attention.self.query.bias[0] += 0.5
    forward, again = cache_of(model, tmp_path)
    part, expected = numbered(batch, 0, 1), logits(model, batch)[:2]
    features = again.features("train", part, "other" if change == "fingerprint" else "one")
    with features.reused():
        torch.testing.assert_close(forward(part), expected, rtol=1e-4, atol=1e-6)
    if change in ("weights", "fingerprint"):
        assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("word", [0, 1, 5, 17])
def test_a_damaged_vector_is_computed_anew(tmp_path, word):
    model, batch = head_only("bert").eval(), numbered(batch_of(), 0, 1)
    expected = cache_of(model, tmp_path)[1].features("train", batch)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[4 * word] ^= 1  # of the checksum (words 0 and 1), or of the vector behind it
    file.write_bytes(content)
    forward, cache = cache_of(model, tmp_path)
    cache.features("train", numbered(batch_of(), 2))  # also finds out what the head reads
    calls = embeddings(model)
    features = cache.features("train", batch)
    assert calls[0] == 1
    with features.reused():
        found = forward(batch)
    with expected.reused():
        torch.testing.assert_close(forward(batch), found, rtol=1e-4, atol=1e-6)


class MeanPooled(nn.Module):
    """A head that reads every token."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(64, 8).requires_grad_(False).eval(), nn.Linear(8, 2)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask[..., None]
        return self.head((self.embedding(input_ids) * mask).sum(1) / mask.sum(1))


class TokensFirst(MeanPooled):
    """Its encoder returns (tokens, examples, size), as XLNet's layers do."""

    def forward(self, input_ids, attention_mask):
        return self.head(self.embedding(input_ids.T).mean(0))


@pytest.mark.parametrize("network", [MeanPooled, TokensFirst])
def test_a_head_that_reads_every_token_is_one_clear_line(network, tmp_path):
    pooled = network()
    encoder = FrozenEncoder(pooled, lambda batch: pooled(batch["input_ids"], batch["attention_mask"]))
    with pytest.raises(ModelError, match=r"the trainable part of a .* reads more than one vector"):
        FeatureCache(encoder, pooled, encoder._forward, tmp_path).features("train", numbered(batch_of(), 0, 1))


def test_what_cannot_be_cached_is_one_clear_line(tmp_path):
    model, batch = head_only("bert"), numbered(batch_of(), 0, 1)
    _, cache = cache_of(model, tmp_path)
    with pytest.raises(ModelError, match="no idx"):
        cache.features("train", {k: v for k, v in batch.items() if k != "idx"})
    _, cache = cache_of(tiny_model("bert"), tmp_path)
    with pytest.raises(ModelError, match="freeze the encoder"):
        cache.features("train", batch)
    (tmp_path / "file").write_text("")
    _, cache = cache_of(model, tmp_path / "file")
    with pytest.raises(ModelError, match="cannot be read: Not a directory"):
        cache.features("train", batch)


def test_the_default_folder_is_beside_what_comes_from_the_hub():
    assert default_feature_cache_dir().parts[-2:] == ("linetune", "features")


def fit(tiny, folder, cache_features, epochs=3, **settings):
    torch.manual_seed(0)
    module = SequenceClassifier(
        str(tiny),
        trainable="head",
        cache_features=str(folder / "features") if cache_features else False,
        optimizer=lambda groups: GLD(groups, radius=0.3, num_radii=3),
        **settings,
    )
    calls = embeddings(module.model)
    trainer = quiet_trainer(max_epochs=epochs, num_sanity_val_steps=0)
    trainer.fit(module, TinyData())
    return module, calls[0], {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_training_on_cached_features_is_training(tmp_path):
    tiny = save_tiny_bert(tmp_path / "model")
    plain, runs, metrics = fit(tiny, tmp_path, False)
    cached, cached_runs, cached_metrics = fit(tiny, tmp_path, True)
    again, later_runs, _ = fit(tiny, tmp_path, True)
    # Four batches in each of three epochs, for training and validation, plus the probes.
    assert 3 * 8 <= runs <= 3 * 8 + 12
    assert 8 <= cached_runs <= 8 + 16
    assert later_runs <= 16
    for one, other, third in zip(plain.parameters(), cached.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other)
        assert torch.equal(other, third)
    for name in ("train/loss", "val/loss", "val/accuracy"):
        assert cached_metrics[name] == pytest.approx(metrics[name], rel=1e-5)
    assert len(os.listdir(tmp_path / "features")) == 2
