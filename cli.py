"""The command line: ``linetune fit --config linetune:quickstart``, or ``python cli.py`` in the clone."""

from linetune import __version__  # isort: skip  # first: it imports the packages without collections of garbage

import os
import sys
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter, Checkpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.enums import StrEnum

from callbacks import (
    ConfigSaver,
    HyperparameterLogger,
    NarrowProgressBar,
    PredictionWriter,
    RunFolders,
    RunSummary,
    SaveOnInterrupt,
    SubmissionWriter,
    claim_run_folders,
)
from callbacks.checkpoints.checkpoint_io import write_atomically
from datamodules import DataError, GLUEDataModule
from lightning_modules import ModelError, SequenceClassifier
from linetune import help_text
from linetune.adapter_config import drop_unwritten_loftq
from linetune.arguments import check_argument_order, check_configs
from linetune.config_errors import OneLineErrorParser, line_about_what_was_given, refuses_arguments
from linetune.exit_status import usual_status
from linetune.exported_model import fill_in_from_model
from linetune.jsonargparse_private import actions_on, frames_to_cause, own_defaults
from linetune.linked_values import DATA_TO_MODEL, fill_in
from linetune.lost_rank import line_about_lost_rank
from linetune.named_checkpoint import named_checkpoint, saved_values, with_checkpoint
from linetune.requeued_job import StartedBy, checkpoint_of_requeued_job, started_by
from linetune.trainer import LinetuneTrainer
from linetune.trainer_section import check_trainer_numbers, expand_save_dir, listed
from linetune.unused_root import warn_of_unused_root
from linetune.warning_lines import warnings_in_one_line

# Errors whose text is for the user: they end the program in one line, all others with a traceback.
USER_ERRORS = (DataError, ModelError, MisconfigurationException)
LONGEST_LINE = 900

# A default of Lightning 2.6.6's Timer is a member of an enumeration, which no YAML file can hold; its word can.
yaml.SafeDumper.add_multi_representer(StrEnum, lambda dumper, member: dumper.represent_str(member.value))


def main(args: ArgsType = None) -> None:
    """Run the command line.

    Args:
        args: Arguments in place of the command line's.

    Raises:
        SystemExit: with status 2 and one line on standard error, if the input is bad. With ``JSONARGPARSE_DEBUG=true``
            in the environment the traceback comes through instead.
    """
    debug = os.environ.get("JSONARGPARSE_DEBUG", "").lower()
    if debug not in ("", "true", "false"):
        exit_with_error(f"environment variable JSONARGPARSE_DEBUG: {debug!r} is not allowed; true or false")
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())  # classes of the user's own; last, so that no file there takes a package's place
    try:
        with usual_status(), warnings_in_one_line():
            LinetuneCLI(
                auto_configure_optimizers=False,
                save_config_callback=ConfigSaver,
                seed_everything_default=0,
                trainer_defaults={"callbacks": [HyperparameterLogger(), RunSummary(), SaveOnInterrupt()]},
                parser_class=OneLineErrorParser,
                parser_kwargs={
                    "version": __version__,
                    "description": help_text.PROGRAM,
                    "formatter_class": help_text.ExamplesFormatter,
                },
                trainer_class=LinetuneTrainer,
                args=args,
            )
    except USER_ERRORS as error:
        if debug == "true":
            raise
        exit_with_error(str(error))
    except RuntimeError as error:
        line = line_about_lost_rank(error)
        if line is None or debug == "true":
            raise
        exit_with_error(line)


def exit_with_error(text: str) -> NoReturn:
    """End the program with one line on standard error and status 2."""
    line = " ".join(text.split())
    line = line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE // 2]} … {line[-LONGEST_LINE // 2 :]}"
    print(f"linetune: error: {line}", file=sys.stderr)
    sys.exit(2)


class LinetuneCLI(LightningCLI):
    """Lightning's command line with linetune's model and data as defaults, which a ``class_path`` replaces."""

    def __init__(self, args: ArgsType = None, **kwargs: Any) -> None:
        given = sys.argv[1:] if args is None else args
        self.given: list[str] = given if isinstance(given, list) else []
        self.folders = RunFolders([], [])
        if "fit" in self.subcommands():
            of_fit = {"description": help_text.FIT, "formatter_class": help_text.ExamplesFormatter}
            kwargs["parser_kwargs"] = {**kwargs.get("parser_kwargs", {}), "fit": of_fit}
        try:
            with own_defaults():
                super().__init__(args=args, **kwargs)
        except USER_ERRORS as error:
            self._remove_unbegun_run()
            path = self.section.get("ckpt_path") if hasattr(self, "config") else None
            named = with_checkpoint(str(error), path)
            if named == str(error):
                raise
            raise type(error)(named) from error
        except (OSError, ValueError, RuntimeError) as error:
            line = line_about_what_was_given(error, self.section) if hasattr(self, "config") else None
            if line is None:
                raise
            self._remove_unbegun_run()
            raise MisconfigurationException(line) from error

    def _remove_unbegun_run(self) -> None:
        """Remove what a run has written that was refused before its first batch was over."""
        callbacks: list[Callback] = getattr(getattr(self, "trainer", None), "callbacks", [])
        for saver in callbacks:
            if isinstance(saver, ConfigSaver) and not saver.has_begun:
                saver.withdraw()
                self.folders.remove()

    @property
    def section(self) -> Namespace:
        """The configuration of the subcommand."""
        return self.config.get(str(self.config.get("subcommand")), self.config)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults({"model": class_path(SequenceClassifier), "data": class_path(GLUEDataModule)})
        for name in DATA_TO_MODEL:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        check_argument_order(self.given)
        check_configs(self.given)
        super().parse_arguments(parser, args)
        seed = self.section.seed_everything
        if not 0 <= seed < 2**32:
            raise MisconfigurationException(f"seed_everything: {seed} is not allowed; 0 to {2**32 - 1}, true or false")
        check_trainer_numbers(self.section.trainer)
        expand_save_dir(self.section.trainer)
        warn_of_unused_root(self.section.trainer, self.given)

    def _parse_ckpt_path(self) -> None:
        # Lightning's own takes the model's class and arguments from the checkpoint, over what the user wrote.
        config, subcommand = self.section, str(self.config.get("subcommand"))
        path = checkpoint_of_requeued_job(config, self.given) if subcommand == "fit" else None
        path = path or named_checkpoint(config, subcommand, self.given)
        if path != config.get("ckpt_path"):
            config.ckpt_path = path
        self.saved = saved_values(path, subcommand)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        every = {**LightningCLI.subcommands(), "export": {"model", "datamodule"}}
        # Lightning builds the parser of each, and a run needs that of its own.
        return {name: skipped for name, skipped in every.items() if name in self.given[:1]} or every

    def before_instantiate_classes(self) -> None:
        config = self.section
        if self.config.get("subcommand") == "export":
            # It runs on any machine, and leaves no folder of a run.
            alone = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": None}
            config.trainer.update(Namespace(**alone, logger=False, callbacks=None))
        drop_unwritten_loftq(config)
        fill_in(config, self.saved)
        fill_in_from_model(config, str(self.config.get("subcommand")), self.given)

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except USER_ERRORS:
            raise
        except Exception as error:
            frames, cause = frames_to_cause(error)
            if not isinstance(cause, USER_ERRORS) and not refuses_arguments(frames, cause):
                raise
            key = ".".join(action.dest for action in actions_on(frames, "instantiate_classes"))
            raise MisconfigurationException(f"{key}: {cause}") from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        callbacks = listed(config, "callbacks")
        if config.get("enable_checkpointing") is False:
            # A ModelCheckpoint stands in the quickstart and others; Lightning refuses the two together.
            callbacks = [each for each in callbacks if not isinstance(each, Checkpoint)]
        has_bar = config.get("enable_progress_bar") is not False and not config.get("barebones")
        if has_bar and not any(isinstance(each, ProgressBar) for each in callbacks):
            # Where rich is installed Lightning takes its bar, which shows a step size of 2e-5 as 0.000.
            callbacks = [*callbacks, NarrowProgressBar()]
        kwargs["callbacks"] = callbacks
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (TypeError, ValueError, MisconfigurationException) as error:
            raise MisconfigurationException(f"trainer: {error}") from error
        except RuntimeError as error:
            if "--ntasks-per-node" not in str(error):  # what Lightning says about SLURM's options
                raise
            raise MisconfigurationException(f"trainer: {error}") from error
        text = started_by(self.given)
        if text is not None:
            trainer.callbacks.append(StartedBy(text))  # type: ignore[attr-defined]
        write_atomically(trainer)
        return trainer

    @rank_zero_only
    def before_fit(self) -> None:
        self.folders = claim_run_folders(self.trainer)
        if self.trainer.max_epochs is None and self.trainer.max_steps == -1 and not self.section.trainer.max_time:
            print(
                "neither trainer.max_epochs nor max_steps nor max_time is given: the run takes Lightning's 1000 epochs"
            )

    def before_validate(self) -> None:
        new = sorted(getattr(self.model, "new_parameter_names", ()))
        if new and not self.section.ckpt_path:
            raise ModelError(
                f"ckpt_path: {self.subcommand} needs a trained model, and of this one {len(new)} parameters are drawn "
                f"at random ({new[0]}, …); give --ckpt_path FILE, or a trained model as --model.model"
            )
        self.folders = claim_run_folders(self.trainer)

    before_test = before_validate

    def before_predict(self) -> None:
        self.before_validate()
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(callback, BasePredictionWriter) for callback in callbacks):
            return
        if isinstance(self.datamodule, GLUEDataModule):
            callbacks.append(SubmissionWriter())
        elif hasattr(self.datamodule, "predict_rows"):
            callbacks.append(PredictionWriter())
        else:
            rank_zero_warn(
                f"predict: unless {type(self.model).__name__} writes its predictions itself, nothing does; name a "
                "BasePredictionWriter of your own in trainer.callbacks"
            )


def class_path(default: type) -> dict[str, str]:
    """Return a class as a configuration names it."""
    return {"class_path": f"{default.__module__.split('.')[0]}.{default.__qualname__}"}


if __name__ == "__main__":
    main()
