"""`python -m hrm`, the same as `hrm`."""

import sys

from hrm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
