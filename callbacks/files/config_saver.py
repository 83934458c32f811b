"""The resolved configuration of a run, saved in its folder."""

import contextlib
import os
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.files.file_systems import is_remote
from callbacks.files.new_file import numbered_names
from callbacks.files.run_folder import missing_folders, run_folder

# Key of a checkpoint's entry: the path of the configuration of its run.
CONFIG_FILE = "config_file"


class ConfigSaver(SaveConfigCallback):
    """Saves the resolved configuration in the run's folder, whatever the logger; never over another file.

    TensorBoard gets the configuration of a fit as well, as a text.

    Lightning's own callback saves where ``Trainer.log_dir`` points, which is the run's folder for TensorBoard and CSV
    files alone. The file is ``config.yaml``; where a file of that name holds something else, ``config-v1.yaml`` and so
    on, as ``ModelCheckpoint`` counts.

    Each checkpoint of the run names it (``config_file``): a ModelCheckpoint may write into a folder of its own, which
    several runs may share.

    Example::

        LightningCLI(save_config_callback=ConfigSaver)

    Attributes:
        saved_as: Path of the saved configuration in the main process; empty before.
        has_begun: Whether a batch has been trained on, or evaluated other than by a check before a fit.
    """

    saved_as: str = ""
    has_begun: bool = False
    _made: tuple[str, ...] = ()  # the file, where there was none, and the folders that were made for it

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.already_saved:
            return
        self.already_saved = True
        folder = run_folder(trainer)
        if trainer.is_global_zero:
            text = self.parser.dump(self._config_of_any_folder(), skip_unset=False)
            self.saved_as = self._save_in(folder, text)
            if stage == "fit":
                self._show_in_tensorboard(trainer, text)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.saved_as:
            checkpoint[CONFIG_FILE] = self.saved_as if "://" in self.saved_as else os.path.abspath(self.saved_as)

    def withdraw(self) -> None:
        """Remove the configuration of a run that was refused before it began, and folders that hold nothing else."""
        for path in reversed(self._made):
            with contextlib.suppress(OSError):
                os.remove(path) if os.path.isfile(path) else os.rmdir(path)

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self.has_begun = True

    on_test_batch_end = on_predict_batch_end = on_train_batch_end

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self.has_begun = self.has_begun or not trainer.sanity_checking

    def _config_of_any_folder(self) -> Namespace:
        """Return the configuration with the whole path of the checkpoint, which the run has found from its folder."""
        path = self.config.get("ckpt_path")
        if not path or not os.path.exists(path):
            return self.config
        config = self.config.clone()
        config.ckpt_path = os.path.abspath(path)
        return config

    def _show_in_tensorboard(self, trainer: Trainer, text: str) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                # As a block of Markdown: TensorBoard shows texts as such.
                logger.experiment.add_text("configuration", "\n".join(f"    {line}" for line in text.splitlines()))

    def _save_in(self, folder: str, text: str) -> str:
        files = get_filesystem(folder)
        made = [] if is_remote(folder) else missing_folders(os.path.abspath(folder))
        files.makedirs(folder, exist_ok=True)
        for path in numbered_names(os.path.join(folder, self.config_filename)):
            if not files.exists(path):
                break
            # A second run without a logger has the first one's folder, and often the same configuration.
            if files.isfile(path) and files.cat_file(path) == text.encode():
                return path
        with files.open(path, "w") as file:
            file.write(text)
        self._made = () if is_remote(folder) else (*made, path)
        return path
