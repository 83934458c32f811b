"""Lightning's Trainer with one more subcommand of the command line: ``export``."""

import os
from typing import Any

from lightning.pytorch import Trainer

from lightning_modules import ModelError
from linetune.checkpoint_export import export_checkpoint, upload


class LinetuneTrainer(Trainer):
    """Trainer of Lightning: devices, precision, length of the run, logger and callbacks; and ``export``."""

    def export(
        self,
        model: Any,
        datamodule: Any,
        to: str,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
        onnx: bool = False,
        merge: bool = True,
        push_to_hub: str | None = None,
    ) -> None:
        """Write a checkpoint as a folder that transformers loads without linetune.

        Args:
            model: The module of the checkpoint.
            datamodule: The datamodule, which has the tokenizer.
            to: Folder to write; must not exist yet, or be empty.
            ckpt_path: The checkpoint; best for the best one of the config's run. Default config: that of its run.
            weights_only: Not used; a checkpoint is always read without running code of its own.
            onnx: Whether to write model.onnx as well; needs the extra onnx.
            merge: Whether to merge an adapter into the weights, or to write peft's own folder.
            push_to_hub: Name of a repository on the Hugging Face hub to upload the folder to; made if it does not
                exist, as a private one.
        """
        if ckpt_path is None:
            raise ModelError("ckpt_path: export needs a checkpoint; give --ckpt_path FILE")
        folder = export_checkpoint(model, datamodule, ckpt_path, to, onnx, merge)
        print(f"exported          {os.path.relpath(folder)}")
        if push_to_hub is not None:
            print(f"uploaded          {upload(folder, push_to_hub)}")
