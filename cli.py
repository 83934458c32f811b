"""The command line: ``python cli.py fit --config configs/quickstart.yaml``."""

import difflib
import inspect
import os
import pickle
import re
import sys
import traceback
from collections.abc import Iterator
from pydoc import locate
from typing import Any, NoReturn

import torch
from jsonargparse import Namespace, _typehints
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import optimizers
from callbacks import HyperparameterLogger, SubmissionWriter, run_folder
from datamodules import DataError, GLUEDataModule
from lightning_modules import ModelError, SequenceClassifier

# What the data knows and the model needs; written once, in the data's section.
DATA_TO_MODEL = ("num_labels", "label_names", "metrics", "eval_set_names")
USER_ERRORS = (DataError, ModelError, MisconfigurationException, OSError)
# How lines of the parser's messages start that only say which types it went through.
SAYS_NOTHING = (
    "Subtypes: ",
    "Errors:",
    "Given value",
    "Does not validate",
    "Expected a path but",
    "Expected a <class 'NoneType'>",
    "Not a valid subclass",
    "Subclass types",
    "a class path (",
    "a dict ",
)


class OneLineErrorParser(LightningArgumentParser):
    """Says what is wrong with the arguments in one line, without the usage in front of it."""

    config_file: Any = None

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Namespace:
        self.config_file = path
        try:
            parsed = super().parse_path(path, *args, **kwargs)
        except UnicodeDecodeError as error:
            self.error(f"not UTF-8 text, at byte {error.start}", error)
        self.config_file = None
        return parsed

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        # A parser that tries one of several types reports to the parser that asked it to.
        if os.environ.get("JSONARGPARSE_DEBUG") or not self.exit_on_error:
            super().error(message, ex)
        text = tidy(message)
        text = text if self.config_file is None else f"{self.config_file}: {text}"
        exit_with_error(f"{text}{hint(text)} (see fit --help, fit --model.help {SequenceClassifier.__name__})")


class ConfigSaver(SaveConfigCallback):
    """Saves the resolved configuration in the run's folder; Lightning's own does so for TensorBoard and CSV alone."""

    saved_as = ""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not self.saved_as:
            folder = run_folder(trainer)
            self.saved_as = os.path.join(folder, self.config_filename)
            if trainer.is_global_zero:
                get_filesystem(folder).makedirs(folder, exist_ok=True)
                self.parser.save(self.config, self.saved_as, skip_unset=False, overwrite=True, multifile=False)


class LinetuneCLI(LightningCLI):
    """Lightning's command line with linetune's model and data as defaults, which a ``class_path`` replaces."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults({"model": class_path(SequenceClassifier), "data": class_path(GLUEDataModule)})
        for name in DATA_TO_MODEL:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        try:
            super()._parse_ckpt_path()
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            path = self.config[self.config.subcommand].ckpt_path
            raise ModelError(f"ckpt_path: {path} is not a checkpoint, or not a whole one") from error

    def before_instantiate_classes(self) -> None:
        config = self.config.get(str(self.subcommand), self.config)
        data, model = config.data.init_args, config.model.init_args
        parameters = inspect.signature(locate(config.model.class_path)).parameters  # type: ignore[arg-type]
        for name in DATA_TO_MODEL:
            default = getattr(parameters.get(name), "default", None)
            is_given = name in model and model[name] != (list(default) if isinstance(default, tuple) else default)
            # A checkpoint brings these along.
            if is_given and not config.ckpt_path and hasattr(locate(config.data.class_path), name):
                raise ModelError(f"model.{name}: it is taken from {config.data.class_path}; leave it out")
        for name, off in (("accumulate_grad_batches", 1), ("gradient_clip_val", None)):
            # Lightning's own are for automatic optimization; it would refuse them without saying where to turn.
            if name in model and config.trainer[name] not in (off, None):
                raise ModelError(f"trainer.{name}: {config.model.class_path} does this itself; give model.{name}")
        if "tokenizer" in data and data.tokenizer is None:
            data.tokenizer = model.get("model")

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:
            if user_error(error) is not None:
                raise
            raise MisconfigurationException(refusal(str(error))) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        callbacks = config.get("callbacks") or []
        if config.get("enable_progress_bar") is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            # Where rich is installed Lightning takes its bar, which shows a step size of 2e-5 as 0.000.
            kwargs["callbacks"] = [*callbacks, TQDMProgressBar()]
        try:
            return super().instantiate_trainer(**kwargs)
        except ValueError as error:
            raise MisconfigurationException(f"trainer: {error}") from error

    def before_predict(self) -> None:
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        written = any(isinstance(callback, SubmissionWriter) for callback in callbacks)
        if isinstance(self.datamodule, GLUEDataModule) and not written:
            callbacks.append(SubmissionWriter())

    @rank_zero_only
    def after_fit(self) -> None:
        trainer = self.trainer
        print(validation_table({name: float(value) for name, value in trainer.callback_metrics.items()}))
        checkpoints = trainer.checkpoint_callback
        if isinstance(checkpoints, ModelCheckpoint):
            best, monitor = checkpoints.best_model_path, checkpoints.monitor
            none = f"the run ended before {monitor or 'the end of an epoch'} was logged"
            none = "fast_dev_run keeps nothing" if trainer.fast_dev_run else none  # type: ignore[attr-defined]
            print(f"best checkpoint   {os.path.relpath(best) if best else f'none: {none}'}")
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ConfigSaver) and os.path.isfile(callback.saved_as):
                print(f"configuration     {os.path.relpath(callback.saved_as)}")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                print(f"look at the run   tensorboard --logdir {os.path.relpath(logger.save_dir or '.')}")


def forget_arguments_of_another_class(parser: Any, previous: Any, value: Any) -> None:
    """Drops the arguments of a class whose place another class takes."""
    if previous and "init_args" in previous and previous["class_path"] != value["class_path"]:
        previous["init_args"] = Namespace()


# jsonargparse hands every argument that both classes have from the one to the other, defaults included: SaLSA would
# run with AdamSLS's constant and growth, AdamW without its weight decay.
_typehints.discard_init_args_on_class_path_change = forget_arguments_of_another_class


def class_path(default: type) -> dict[str, str]:
    """A class as a configuration names it."""
    return {"class_path": f"{default.__module__.split('.')[0]}.{default.__qualname__}"}


def validation_table(metrics: dict[str, float]) -> str:
    """The metrics of a finished run's last validation, one a line."""
    rows = sorted((name, value) for name, value in metrics.items() if name.startswith("val"))
    width = max((len(name) for name, _ in rows), default=0)
    heading = ["last validation"] if rows else []
    return "\n".join(["", *heading, *(f"{name:<{max(width, 16)}}  {value:.4f}" for name, value in rows)])


def tidy(message: str) -> str:
    """A parser's message in one line: the argument, what was expected, and what was given."""
    unknown = re.search(r"Option '[^']+' is not accepted", message)
    if unknown is not None:
        return unknown.group()
    keys = re.findall(r'Parser key "([^"]+)":', message)
    if not keys:
        return " ".join(re.sub(r"Given value( type)?: .*", "", message).split())
    innermost = message.rpartition(f'Parser key "{keys[-1]}":')[2]
    value = re.search(r"(?:Given|Got) value: (?!\[?NestedArg|\[?Namespace)(.*?)(?:\. Got value|$)", innermost, re.M)
    value = value or re.search(r"import path string: (.*)", innermost)
    said = complaints(re.split(r"\.? *(?:Given|Got) value", innermost)[0])
    expected = [text.removeprefix("Expected a ") for text in said if text.startswith("Expected a ")]
    text = f"expected {' or '.join(expected)}" if len(expected) == len(said) else "; ".join(said)
    return f"{'.'.join(dict.fromkeys(keys))}: {text}" + (f", got {value.group(1)}" if value else "")


def complaints(message: str) -> list[str]:
    """The single complaints of a message about all the types that were tried, without those that say nothing."""
    found: list[str] = []
    for line in filter(None, map(str.strip, message.splitlines())):
        text = line.removeprefix("- ")
        if text.startswith(SAYS_NOTHING):
            continue
        if text == line and found:
            found[-1] += f" {text}"
        else:
            found.append(text)
    for pattern, plain in (
        (r"<class '([^']+)'>", r"\1"),
        (r"typing\.Literal\[(.*)\]", r"one of \1"),
        (r"dot import path string: .*", "import path"),
        (r"Type \S.* expects a function or a callable class: ", ""),
    ):
        found = [re.sub(pattern, plain, text) for text in found]
    return list(dict.fromkeys(found))


def refusal(message: str) -> str:
    """What a constructor said, without the other types that the parser then tried in vain."""
    said = [text for text in complaints(message) if not text.startswith("Expected a ")]
    return "; ".join(text for text in said if "unexpected keyword argument" not in text) or message


def hint(message: str) -> str:
    """What is allowed, or close to what was written, where the parser's message does not say it."""
    if message.startswith("model.optimizer: "):
        own = ", ".join(f"optimizers.{optimizer.__name__}" for optimizer in own_optimizers())
        return f"; allowed: {own}, or the import path of any torch optimizer"
    unknown = re.search(r"(?:[Oo]ption '|unrecognized arguments: --)([\w.]+)", message)
    known = set(known_arguments())
    for name in unknown.group(1).split(".") if unknown else ():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3)
            return f"; close to it: {', '.join(close)}" if close else ""
    return ""


def known_arguments() -> Iterator[str]:
    """Names of the sections, and of the arguments of the trainer, the default model and data, and own optimizers."""
    yield from ("model", "data", "trainer", "config", "ckpt_path", "seed_everything", "class_path", "init_args")
    for known in [Trainer, SequenceClassifier, GLUEDataModule, *own_optimizers()]:
        yield from inspect.signature(known).parameters


def own_optimizers() -> list[type[torch.optim.Optimizer]]:
    """linetune's optimizers, without the base class of the line searches."""
    public = [getattr(optimizers, name) for name in sorted(optimizers.__all__)]
    classes = [item for item in public if isinstance(item, type) and issubclass(item, torch.optim.Optimizer)]
    return [item for item in classes if item is not optimizers.LineSearchOptimizer]


def user_error(error: BaseException | None) -> BaseException | None:
    """The error for the user in a chain of errors: instantiation wraps what a constructor raises."""
    while error is not None and not (isinstance(error, USER_ERRORS) or refused_by_lightning(error)):
        # Not __context__: what is raised without a word while another error is handled is a bug of its own.
        error = error.__cause__
    return error


def refused_by_lightning(error: BaseException) -> bool:
    """Whether it is Lightning itself that raised it: many of its checks of what a user asks for raise plain errors."""
    raised_in = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)][-1:]
    return isinstance(error, ValueError | TypeError | RuntimeError) and "".join(raised_in).startswith("lightning.")


def exit_with_error(text: str) -> NoReturn:
    """Ends the program with one line on standard error and status 2."""
    print(f"linetune: error: {' '.join(text.split())}", file=sys.stderr)
    sys.exit(2)


def main(args: ArgsType = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments in place of the command line's.

    Raises:
        SystemExit: with status 2 and one line on standard error, if the input is bad. With ``JSONARGPARSE_DEBUG`` set
            in the environment the traceback comes through instead.
    """
    try:
        LinetuneCLI(
            auto_configure_optimizers=False,
            save_config_callback=ConfigSaver,
            seed_everything_default=0,
            trainer_defaults={"callbacks": [HyperparameterLogger()]},
            parser_class=OneLineErrorParser,
            args=args,
        )
    except Exception as error:
        cause = user_error(error)
        if cause is None or os.environ.get("JSONARGPARSE_DEBUG"):
            raise
        exit_with_error(str(cause))


if __name__ == "__main__":
    main()
