"""Gradual unfreezing: the head trains first, then one more part of the model at a time, from the top down."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.nn.parallel import DistributedDataParallel

from callbacks.trainer.trainer_callbacks import move_to_front
from optimizers import Part, named_parts


class GradualUnfreezing(Callback):
    """Freezes all parts but the head, then unfreezes one more part at a time, from the top down.

    The scheme of ULMFiT (Howard and Ruder, arXiv 1801.06146). The parts are those of :func:`~optimizers.named_parts`:
    the head, the layers from the last to the first, the embeddings. With adapters a layer's part is its adapters.

    Which parts are frozen depends only on the epoch and the step. It is computed again before every batch, so that a
    resumed run continues correctly, also with other arguments. Parameters that were frozen before the run are ignored,
    and after the run all parts are trainable again. A frozen part has ``requires_grad=False``: it has no gradient, no
    optimizer moves it, and the backward pass ends above it. Under DDP the model is wrapped again whenever a part is
    unfrozen, because DDP synchronises only the parameters that were trainable when it wrapped the model.

    Logs ``train/trainable_parts``, and says at the start which parts a run of ``max_epochs`` is too short to unfreeze.

    Args:
        every_n_epochs: Unfreeze the next part after every n epochs. Default: 1, if no other argument says when.
        every_n_steps: Unfreeze the next part after every n optimizer steps.
        at_epochs: Epochs, counted from 0, at whose start one more part is unfrozen. With fewer epochs than parts, the
            lowest parts stay frozen; with an empty list only the head trains.
        at_steps: The same in optimizer steps.
        embeddings: Whether the embeddings are unfrozen at last, or never.

    Raises:
        MisconfigurationException: if more than one of the first four arguments is given or one is out of range, or if
            the strategy is neither DDP nor a single device.

    Example::

        Trainer(callbacks=[GradualUnfreezing(every_n_epochs=1)])
    """

    def __init__(
        self,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        at_epochs: list[int] | None = None,
        at_steps: list[int] | None = None,
        embeddings: bool = True,
    ) -> None:
        given = {
            "every_n_epochs": every_n_epochs,
            "every_n_steps": every_n_steps,
            "at_epochs": at_epochs,
            "at_steps": at_steps,
        }
        chosen = [name for name, value in given.items() if value is not None]
        if len(chosen) > 1:
            raise MisconfigurationException(f"GradualUnfreezing: {' and '.join(chosen)} exclude each other; give one")
        for name in ("every_n_epochs", "every_n_steps"):
            value = given[name]
            if isinstance(value, int) and value < 1:
                raise MisconfigurationException(f"GradualUnfreezing: {name}: {value} is not allowed; 1 or more")
        for name in ("at_epochs", "at_steps"):
            points = given[name]
            if isinstance(points, list) and (points != sorted(points) or any(point < 0 for point in points)):
                raise MisconfigurationException(
                    f"GradualUnfreezing: {name}: {points} is not allowed; a rising list of numbers from 0 on"
                )
        self.every_n_epochs = every_n_epochs if chosen else 1
        self.every_n_steps = every_n_steps
        self.at_epochs = at_epochs
        self.at_steps = at_steps
        self.embeddings = embeddings
        self._parts: list[Part] = []
        self._num_trainable = 0

    def num_unfrozen(self, epoch: int, step: int) -> int:
        """Return how many parts below the topmost one are unfrozen, which may be more than the model has.

        Args:
            epoch: Completed epochs.
            step: Completed optimizer steps.
        """
        if self.at_epochs is not None:
            return sum(point <= epoch for point in self.at_epochs)
        if self.at_steps is not None:
            return sum(point <= step for point in self.at_steps)
        if self.every_n_steps is not None:
            return step // self.every_n_steps
        return epoch // (self.every_n_epochs or 1)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
            raise MisconfigurationException(
                f"GradualUnfreezing: no support for {type(trainer.strategy).__name__}: use one device, or strategy ddp"
            )
        move_to_front(self, trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # By now the optimizer holds all parameters that will ever train, and the progress of a resumed run is known.
        model = getattr(pl_module, "trained_module", pl_module)
        try:
            self._parts = named_parts(model, getattr(pl_module, "module_order", ()))[::-1]
        except ValueError as error:
            raise MisconfigurationException(f"GradualUnfreezing: {error}") from error
        self._num_trainable = 0
        self._tell_what_stays_frozen(trainer)
        self._apply(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._apply(trainer, pl_module)
        pl_module.log("train/trainable_parts", float(self._num_trainable))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._release()

    def _tell_what_stays_frozen(self, trainer: Trainer) -> None:
        """Say so where a run of a known number of epochs is too short to unfreeze every part."""
        if self.every_n_epochs is None or not trainer.max_epochs or trainer.max_epochs < 0:
            return
        allowed = self._allowed()
        frozen = allowed[1 + self.num_unfrozen(trainer.max_epochs - 1, 0) :]
        if frozen:
            names = ", ".join(part.name for part in frozen)
            rank_zero_info(
                f"GradualUnfreezing: of {len(allowed)} parts {len(frozen)} stay frozen in {trainer.max_epochs} epochs "
                f"({names}); every_n_steps unfreezes sooner"
            )

    def _allowed(self) -> list[Part]:
        """Return the parts that may be unfrozen, from the top down."""
        return [part for part in self._parts if self.embeddings or part.kind != "embeddings"]

    def _apply(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze and unfreeze parts for the current epoch and step."""
        allowed = self._allowed()
        number = min(1 + self.num_unfrozen(trainer.current_epoch, trainer.global_step), len(allowed))
        if number == self._num_trainable:
            return
        trainable = {part.name for part in allowed[:number]}
        for part in self._parts:
            for _, parameter in part.parameters:
                parameter.requires_grad_(part.name in trainable)
                if part.name not in trainable:
                    parameter.grad = None
        self._num_trainable = number
        if isinstance(trainer.strategy.model, DistributedDataParallel):
            assert isinstance(trainer.strategy, DDPStrategy)
            trainer.strategy.model = pl_module
            trainer.strategy.configure_ddp()

    def _release(self) -> None:
        for part in self._parts:
            for _, parameter in part.parameters:
                parameter.requires_grad_(True)
        self._parts = []
