"""Studies: a grid of training runs from one YAML file, and a report that compares them."""
