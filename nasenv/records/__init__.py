"""What a search leaves in its run directory, and how it goes on from there."""
