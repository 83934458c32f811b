"""Outputs of a run: predictions, submissions, the trained model as a folder."""
