"""Lightning callbacks: freezing, learning rates, logging, scores, budgets in seconds, and files that a run writes."""

from callbacks.calibration import Calibration
from callbacks.checkpoint_io import AtomicCheckpointIO
from callbacks.class_report import ClassReport
from callbacks.config_saver import ConfigSaver
from callbacks.confusion_matrix import ConfusionMatrix
from callbacks.differential_learning_rates import DifferentialLearningRates
from callbacks.gradual_unfreezing import GradualUnfreezing
from callbacks.hyperparameter_logger import HyperparameterLogger
from callbacks.main_metric_stopping import MainMetricStopping
from callbacks.measured_learning_rate import MeasuredLearningRate
from callbacks.model_exporter import ModelExporter
from callbacks.narrow_progress_bar import NarrowProgressBar
from callbacks.peak_memory_monitor import PeakMemoryMonitor
from callbacks.prediction_writer import PredictionWriter
from callbacks.pretrained_interpolation import PretrainedInterpolation
from callbacks.run_folder import RunFolders, claim_run_folders, run_folder
from callbacks.run_summary import RunSummary
from callbacks.save_on_interrupt import SaveOnInterrupt
from callbacks.schedule_by_seconds import ScheduleBySeconds
from callbacks.step_size_monitor import StepSizeMonitor
from callbacks.submission_writer import SubmissionWriter
from callbacks.training_seconds import TrainingSeconds

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
