"""The output of a frozen encoder, computed once and kept."""
