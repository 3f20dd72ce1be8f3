"""The commands of `nasenv`, one a file."""
