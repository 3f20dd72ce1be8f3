"""``nasenv build_table`` for those who work in a clone: ``python scripts/build_table.py [options]``."""

import sys

from nasenv.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["build_table", *sys.argv[1:]]))
