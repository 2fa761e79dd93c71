"""Beat as it is shipped, with time sped up: some minutes in a second. Its argument is the schedule's file."""

from __future__ import annotations

import sys

from coordination.settings import load_settings
from workers.app import make_app

if __name__ == "__main__":
    app = make_app(load_settings())
    for entry in app.conf.beat_schedule.values():
        entry["schedule"] = 0.01
    app.Beat(loglevel="INFO", schedule=sys.argv[1], quiet=True).run()
