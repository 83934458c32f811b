"""What is done with a trained classifier: predictions for texts, and folders for other software."""
