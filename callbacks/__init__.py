"""Lightning callbacks: freezing, learning rates, logging, budgets in seconds, and files that a run writes."""

from callbacks.config_saver import ConfigSaver
from callbacks.differential_learning_rates import DifferentialLearningRates
from callbacks.gradual_unfreezing import GradualUnfreezing
from callbacks.hyperparameter_logger import HyperparameterLogger
from callbacks.model_exporter import ModelExporter
from callbacks.peak_memory_monitor import PeakMemoryMonitor
from callbacks.prediction_writer import PredictionWriter
from callbacks.run_folder import run_folder
from callbacks.run_summary import RunSummary
from callbacks.schedule_by_seconds import ScheduleBySeconds
from callbacks.step_size_monitor import StepSizeMonitor
from callbacks.submission_writer import SubmissionWriter
from callbacks.training_seconds import TrainingSeconds

__all__ = [
    "ConfigSaver",
    "DifferentialLearningRates",
    "GradualUnfreezing",
    "HyperparameterLogger",
    "ModelExporter",
    "PeakMemoryMonitor",
    "PredictionWriter",
    "RunSummary",
    "ScheduleBySeconds",
    "StepSizeMonitor",
    "SubmissionWriter",
    "TrainingSeconds",
    "run_folder",
]
