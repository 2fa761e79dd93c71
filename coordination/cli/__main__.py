"""``python -m coordination.cli``: the same as ``coord``."""

import sys

from coordination.cli.start import main

sys.exit(main())
