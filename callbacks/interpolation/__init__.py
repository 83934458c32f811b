"""The search between the pretrained weights and the trained ones at the end of a fit."""
