"""Data: the user's own texts, and the GLUE tasks from the hub, from official files, or generated."""

from datamodules.errors import DataError
from datamodules.glue_datamodule import GLUEDataModule
from datamodules.glue_tasks import TASKS, Task
from datamodules.label_statistics import LabelStatistics
from datamodules.length_grouped_sampler import LengthGroupedSampler
from datamodules.text_datamodule import TextDataModule

__all__ = ["TASKS", "DataError", "GLUEDataModule", "LabelStatistics", "LengthGroupedSampler", "Task", "TextDataModule"]
