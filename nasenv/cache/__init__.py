"""Measurements kept for other searches: in a file, or on a server that machines share; and who is training what."""
