"""``python -m nasenv COMMAND`` is the command ``nasenv COMMAND``."""

import sys

from nasenv.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
