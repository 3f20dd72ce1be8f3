"""What is run in a clone and not shipped; the scripts import each other as modules of this package."""
