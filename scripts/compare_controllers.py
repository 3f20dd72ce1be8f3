"""``nasenv compare`` for those who work in a clone: ``python scripts/compare_controllers.py [options]``."""

import sys

from nasenv.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
