"""Lightning callbacks: freezing, learning rates, logging, scores, budgets in seconds, and files that a run writes."""

from callbacks.checkpoints.checkpoint_io import AtomicCheckpointIO
from callbacks.checkpoints.save_on_interrupt import SaveOnInterrupt
from callbacks.files.config_saver import ConfigSaver
from callbacks.files.run_folder import RunFolders, claim_run_folders, run_folder
from callbacks.interpolation.pretrained_interpolation import PretrainedInterpolation
from callbacks.outputs.model_exporter import ModelExporter
from callbacks.outputs.prediction_writer import PredictionWriter
from callbacks.outputs.submission_writer import SubmissionWriter
from callbacks.reports.calibration import Calibration
from callbacks.reports.class_report import ClassReport
from callbacks.reports.confusion_matrix import ConfusionMatrix
from callbacks.reports.hyperparameter_logger import HyperparameterLogger
from callbacks.reports.narrow_progress_bar import NarrowProgressBar
from callbacks.reports.peak_memory_monitor import PeakMemoryMonitor
from callbacks.reports.run_summary import RunSummary
from callbacks.reports.step_size_monitor import StepSizeMonitor
from callbacks.schedules.differential_learning_rates import DifferentialLearningRates
from callbacks.schedules.gradual_unfreezing import GradualUnfreezing
from callbacks.schedules.main_metric_stopping import MainMetricStopping
from callbacks.schedules.measured_learning_rate import MeasuredLearningRate
from callbacks.schedules.schedule_by_seconds import ScheduleBySeconds
from callbacks.schedules.training_seconds import TrainingSeconds

__all__ = [
    "AtomicCheckpointIO",
    "Calibration",
    "ClassReport",
    "ConfigSaver",
    "ConfusionMatrix",
    "DifferentialLearningRates",
    "GradualUnfreezing",
    "HyperparameterLogger",
    "MainMetricStopping",
    "MeasuredLearningRate",
    "ModelExporter",
    "NarrowProgressBar",
    "PeakMemoryMonitor",
    "PredictionWriter",
    "PretrainedInterpolation",
    "RunFolders",
    "RunSummary",
    "SaveOnInterrupt",
    "ScheduleBySeconds",
    "StepSizeMonitor",
    "SubmissionWriter",
    "TrainingSeconds",
    "claim_run_folders",
    "run_folder",
]
