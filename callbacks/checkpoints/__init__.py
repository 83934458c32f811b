"""Checkpoint files: written whole, checked when they are read, saved when a run is interrupted."""
