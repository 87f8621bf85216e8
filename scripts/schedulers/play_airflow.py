"""Run one night in Airflow, with the DAG that builds in one task."""

from __future__ import annotations

import sys
from pathlib import Path

from airflow_night import play

play(Path(sys.argv[1]), "nightly", builder="build")
