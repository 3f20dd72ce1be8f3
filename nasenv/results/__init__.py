"""What comes out of a search."""
