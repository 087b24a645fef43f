"""main.py, with the intervals of a cluster made short: tests wait for what ends by itself."""

from __future__ import annotations

import sys

from services.cluster import heartbeat

# Before anything takes the usual ones for its default.
heartbeat.INTERVALS = heartbeat.Intervals(node=0.5, models=1.0, gone=4)

if __name__ == "__main__":
    from main import main

    sys.exit(main())
