"""Reports of a run, while it trains and at its end: figures, tables, curves."""
