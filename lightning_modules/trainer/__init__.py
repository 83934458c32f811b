"""What a module has to know of Lightning's Trainer: its callbacks, the length of a run, evaluation on several ranks."""
