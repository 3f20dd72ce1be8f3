"""``nasenv train`` for those who work in a clone: ``python scripts/train_controller.py [options]``."""

import sys

from nasenv.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
