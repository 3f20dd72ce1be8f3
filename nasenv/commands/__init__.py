"""Each file holds one command of `nasenv`."""
