"""What a callback has to know of Lightning's Trainer: the order of callbacks, steps beside those of the run."""
