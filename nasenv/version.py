"""The package has this version; its metadata are made from here."""

__version__ = "0.1.0"
