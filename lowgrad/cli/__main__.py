"""`python -m lowgrad.cli` is `lowgrad`."""

import sys

from lowgrad.cli import main

sys.exit(main())
