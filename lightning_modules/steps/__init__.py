"""The parts of a training step: making and calling the optimizer, learning rates, skipped steps, clipping."""
