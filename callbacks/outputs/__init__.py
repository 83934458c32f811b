"""What a run leaves for others: predictions, submissions, the trained model as a folder."""
