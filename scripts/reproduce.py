"""``nasenv reproduce`` for those who work in a clone: ``python scripts/reproduce.py RUN_DIR``."""

import sys

from nasenv.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["reproduce", *sys.argv[1:]]))
