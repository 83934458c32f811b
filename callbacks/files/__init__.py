"""Files that a run writes: their folder, and files that appear whole or not at all."""
