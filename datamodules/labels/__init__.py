"""Labels: the kind of task that they stand for, their encoding, their statistics."""
