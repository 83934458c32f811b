"""Saving a trained adapter in the run's folder, and perhaps the merged model."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks.run_folder import run_folder


class AdapterSaver(Callback):
    """Saves the adapter of a :class:`~lightning_modules.SequenceClassifier` at the end of training, from rank 0.

    ``<folder>/adapter`` holds it in peft's own format (``PeftModel.from_pretrained`` reads it, and so does the module's
    argument ``adapter``); ``<folder>/merged`` the model with the adapter merged into its weights, as any Hugging Face
    model.

    Args:
        folder: Where to write. Default: the run's folder (:func:`~callbacks.run_folder`).
        merge: Whether to write the merged model as well. Not every kind of adapter can be merged.

    Raises:
        MisconfigurationException: if the module has no adapter.

    Example::

        Trainer(callbacks=[AdapterSaver(merge=True)])
    """

    def __init__(self, folder: str | None = None, merge: bool = False) -> None:
        self.folder = folder
        self.merge = merge

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and getattr(pl_module, "adapted", None) is None:
            raise MisconfigurationException(
                "AdapterSaver: the module has no adapter; give the model one, or leave this out"
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Every rank has to ask for the run's folder: the ranks agree on it.
        folder = Path(self.folder or run_folder(trainer))
        if trainer.is_global_zero:
            pl_module.save_adapter(folder / "adapter")  # type: ignore[operator]
            if self.merge:
                pl_module.merged_model().save_pretrained(folder / "merged")  # type: ignore[operator]
