"""A checkpoint as a folder that transformers loads alone, on disk and on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks.checkpoints.checkpoint_reading import read_checkpoint
from callbacks.outputs.training_facts import facts_of, input_facts
from lightning_modules.errors import first_line


def export_checkpoint(module: Any, datamodule: Any, path: str, to: str, onnx: bool = False, merge: bool = True) -> Path:
    """Write a checkpoint as a folder that transformers loads alone, or as peft's own folder of its adapter.

    Args:
        module: The checkpoint's module.
        datamodule: The datamodule of its run, for tokenizer and maximum length.
        path: The checkpoint.
        to: Folder to write; must not exist yet, or be empty.
        onnx: Whether to write ``model.onnx`` as well.
        merge: Whether to merge an adapter into the weights.
    """
    checkpoint = read_checkpoint(path, mmap=True)
    module.on_load_checkpoint(checkpoint)  # which refuses one of another model
    weights = checkpoint["state_dict"]
    if not merge:
        return module.save_adapter(to, weights=weights)
    facts = input_facts(datamodule) | facts_of(checkpoint)
    return module.export(to, getattr(datamodule, "tokenizer", None), weights=weights, facts=facts, onnx=onnx)


def upload(folder: Path, name: str) -> str:
    """Upload a folder to a repository on the Hugging Face hub and return its address; a new one is private.

    Raises:
        MisconfigurationException: The hub refused it: no token, no right, or no such place.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=address.repo_id, commit_message="Model exported by linetune")
    except (OSError, ValueError) as error:  # its own errors are of these two kinds
        raise MisconfigurationException(
            f"push_to_hub: {name}: {first_line(error)} (the folder is complete: {folder}; `hf auth login` gives a "
            "token)"
        ) from error
    return str(address)
