"""One run of one agent on one problem."""
