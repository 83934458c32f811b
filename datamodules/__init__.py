"""Data: the user's own texts, and the GLUE tasks from the hub, from official files, or generated."""

from datamodules.batches.length_grouped_sampler import LengthGroupedSampler
from datamodules.errors import DataError
from datamodules.glue.glue_tasks import TASKS, Task
from datamodules.glue_datamodule import GLUEDataModule
from datamodules.labels.label_statistics import LabelStatistics
from datamodules.text_datamodule import TextDataModule

__all__ = ["TASKS", "DataError", "GLUEDataModule", "LabelStatistics", "LengthGroupedSampler", "Task", "TextDataModule"]
