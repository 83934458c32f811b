"""Programs that compare optimizers: studies over many runs, and the cost of single steps."""
