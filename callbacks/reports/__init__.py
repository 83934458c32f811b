"""What a run says about itself while it trains and when it ends: figures, tables, curves."""
