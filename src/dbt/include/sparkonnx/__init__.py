"""The path of this adapter's macros. For all other macros, dbt uses those of dbt-spark."""

import os

PACKAGE_PATH = os.path.dirname(__file__)  # noqa: PTH120, dbt joins it with text
