"""Data sets are read, split and normalised."""
