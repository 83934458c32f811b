"""What of other packages works with linetune, found by trying all of it."""
