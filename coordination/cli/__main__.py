"""``python -m coordination.cli``: the same as ``coord``."""

import sys

from coordination.cli.main import main

sys.exit(main())
