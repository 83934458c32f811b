"""Generated rows of the GLUE tasks, without network and files."""
