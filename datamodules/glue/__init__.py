"""The GLUE tasks: their table, and readers of their rows."""
