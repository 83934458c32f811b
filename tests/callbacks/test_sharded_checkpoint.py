"""Sharded checkpoints: folders that are whole or not there, read on one device without running what they name."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, BertTokenizerFast

from callbacks import AtomicCheckpointIO
from callbacks.checkpoints.checkpoint_io import remove_leftovers, write_atomically
from callbacks.checkpoints.checkpoint_reading import read_checkpoint
from callbacks.checkpoints.sharded_checkpoint import REPLACED, UNFINISHED, unfinished_name
from lightning_modules import ModelError, SequenceClassifier
from linetune.checkpoint_export import export_checkpoint
from tests.quiet_trainer import quiet_trainer
from tests.ranks import on_ranks
from tests.tiny_models import rows, save_tiny_bert

pytestmark = pytest.mark.distributed


def trainer_on_two(folder: Path, **options: Any) -> Trainer:
    strategy = ModelParallelStrategy(
        data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo", **options
    )
    trainer = quiet_trainer(devices=2, strategy=strategy, max_steps=2, default_root_dir=folder, limit_val_batches=0)
    write_atomically(trainer)
    return trainer


def module_of(folder: Path) -> SequenceClassifier:
    torch.manual_seed(0)
    return SequenceClassifier(str(folder / "m"), optimizer=partial(torch.optim.AdamW, lr=1e-2))


def save_twice(rank: int, folder: Path) -> None:
    """Writes a checkpoint, and a later one over it in vain; then the later one, on its own."""
    trainer, module = trainer_on_two(folder), module_of(folder)
    trainer.fit(module, DataLoader(rows(8), batch_size=4))
    trainer.save_checkpoint(folder / "a.ckpt", weights_only=False)
    write, killed = torch.save, KeyboardInterrupt("as a kill would")

    def write_half(what: Any, where: Any, *args: Any, **options: Any) -> None:
        if Path(str(where)).name == "meta.pt":
            raise killed
        write(what, where, *args, **options)

    whole = {name: each.full_tensor() for name, each in module.state_dict().items()}
    with torch.no_grad():
        module.model.classifier.bias.fill_(7.0)
    torch.save = write_half
    if rank == 0:
        with pytest.raises(KeyboardInterrupt):
            trainer.save_checkpoint(folder / "a.ckpt", weights_only=False)
    else:  # which would wait for rank 0 when it has written its part
        barrier = trainer.strategy.barrier
        before_writing = iter([barrier])
        trainer.strategy.barrier = lambda *_: next(before_writing, lambda: None)()
        trainer.save_checkpoint(folder / "a.ckpt", weights_only=False)
        trainer.strategy.barrier = barrier
    torch.save = write
    trainer.strategy.barrier()
    # As on a full disk.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    with pytest.raises(OSError, match="not saved, those before it are kept"):
        trainer.save_checkpoint(folder / "a.ckpt", weights_only=False)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    if rank == 0:
        assert sorted(each.name for each in folder.glob("*.ckpt")) == ["a.ckpt"]
        torch.save(whole, folder / "whole.pt")
    trainer.strategy.barrier()
    trainer.save_checkpoint(folder / "b.ckpt", weights_only=False)
    trainer.save_checkpoint(folder / "b.ckpt", weights_only=False)  # over a whole one


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    save_tiny_bert(folder / "m")
    on_ranks(save_twice, folder)
    return folder


def test_one_that_is_not_finished_leaves_the_one_before(written: Path) -> None:
    checkpoint, whole = read_checkpoint(written / "a.ckpt"), torch.load(written / "whole.pt")
    assert checkpoint["state_dict"].keys() == whole.keys()
    assert all(torch.equal(checkpoint["state_dict"][name], value) for name, value in whole.items())
    assert read_checkpoint(written / "b.ckpt")["state_dict"]["model.classifier.bias"].tolist() == [7.0, 7.0]
    assert checkpoint["global_step"] == 2
    assert checkpoint["optimizer_states"][0]["state"][0]["step"] == 2
    assert {each.name for each in written.iterdir()} == {"a.ckpt", "b.ckpt", "m", "whole.pt"}


def test_what_a_killed_process_has_left_is_removed(tmp_path: Path) -> None:
    for number, end in ((999_999, ""), (999_999, REPLACED), (os.getpid(), "")):
        (tmp_path / f"{UNFINISHED}{socket.gethostname()}-{number}{end}").mkdir()
    remove_leftovers(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == [unfinished_name()]


def test_it_is_exported_and_validated_on_one_device(written: Path, tmp_path: Path) -> None:
    module = module_of(written)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]))
    data = type("Data", (), {"tokenizer": BertTokenizerFast(str(tmp_path / "vocab.txt"))})
    export_checkpoint(module, data, str(written / "b.ckpt"), str(tmp_path / "exported"))
    exported = AutoModelForSequenceClassification.from_pretrained(tmp_path / "exported")
    assert exported.classifier.bias.tolist() == [7.0, 7.0]

    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, plugins=[AtomicCheckpointIO()], barebones=False
    )
    trainer.validate(module, DataLoader(rows(8), batch_size=4), ckpt_path=str(written / "b.ckpt"), verbose=False)
    assert module.model.classifier.bias.tolist() == [7.0, 7.0]


class Harmful:
    """Leaves a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.marker),))


def copied(written: Path, folder: Path) -> Path:
    (folder / "c.ckpt").mkdir()
    for file in (written / "a.ckpt").iterdir():
        (folder / "c.ckpt" / file.name).write_bytes(file.read_bytes())
    return folder / "c.ckpt"


@pytest.mark.parametrize("what", ["index", "rest", "no index", "no shard", "cut shard"])
def test_a_damaged_or_harmful_one_is_one_line(what: str, written: Path, tmp_path: Path) -> None:
    folder, marker = copied(written, tmp_path), tmp_path / "marker"
    shard = folder / "__1_0.distcp"
    if what == "index":
        (folder / ".metadata").write_bytes(pickle.dumps(Harmful(marker)))
    elif what == "rest":
        torch.save(torch.load(folder / "meta.pt") | {"callbacks": Harmful(marker)}, folder / "meta.pt")
    elif what == "no index":
        (folder / ".metadata").unlink()
    elif what == "no shard":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-2000])
    with pytest.raises(MisconfigurationException, match=f"^ckpt_path: {folder} is ") as error:
        read_checkpoint(folder)
    assert "\n" not in str(error.value)
    assert not marker.exists()


def go_on_from_a_file(rank: int, folder: Path) -> None:
    module, trainer = module_of(folder), trainer_on_two(folder)
    with pytest.raises(MisconfigurationException, match="ModelParallelStrategy cannot go on from it"):
        trainer.fit(module, DataLoader(rows(8), batch_size=4), ckpt_path=str(folder / "file.ckpt"))


def gather_checkpoints(rank: int, folder: Path) -> None:
    with pytest.raises(ModelError, match=r"^trainer\.strategy: save_distributed_checkpoint: false "):
        trainer_on_two(folder, save_distributed_checkpoint=False).fit(module_of(folder), DataLoader(rows(8)))


def test_what_cannot_be_resumed_is_refused(tmp_path: Path) -> None:
    save_tiny_bert(tmp_path / "m")
    trainer = Trainer(accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, barebones=False)
    trainer.fit(module_of(tmp_path), DataLoader(rows(8), batch_size=4))
    trainer.save_checkpoint(tmp_path / "file.ckpt")
    on_ranks(go_on_from_a_file, tmp_path)
    on_ranks(gather_checkpoints, tmp_path)
