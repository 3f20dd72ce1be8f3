"""Data sets: read, split and normalised."""
