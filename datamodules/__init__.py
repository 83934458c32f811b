"""Data: the GLUE tasks from the Hugging Face hub, from a folder of official files, or generated."""

from datamodules.errors import DataError
from datamodules.glue_datamodule import GLUEDataModule
from datamodules.glue_tasks import TASKS, Task
from datamodules.length_grouped_sampler import LengthGroupedSampler

__all__ = ["TASKS", "DataError", "GLUEDataModule", "LengthGroupedSampler", "Task"]
