"""The user's own texts: which columns and rows are used, for training and for validation."""
