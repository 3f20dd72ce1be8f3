"""``nasenv import_benchmark`` for those who work in a clone: ``python scripts/import_benchmark.py NAME [options]``."""

import sys

from nasenv.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["import_benchmark", *sys.argv[1:]]))
