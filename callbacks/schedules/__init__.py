"""What is trained, how fast and how long: learning rates, freezing, budgets in seconds, early stopping."""
