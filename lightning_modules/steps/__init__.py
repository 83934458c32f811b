"""The parts of a training step: what computes its loss again, what calls its optimizer, and what it leaves out."""
