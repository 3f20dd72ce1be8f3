"""A search runs one agent on one problem."""
