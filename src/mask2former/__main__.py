"""``python -m mask2former``: the command line, where the script is not on the path."""

import sys

from mask2former.cli import main

if __name__ == "__main__":
    sys.exit(main())
