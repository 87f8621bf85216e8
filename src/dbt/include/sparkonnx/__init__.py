"""Where dbt finds this adapter's macros; those of dbt-spark serve it."""

import os

PACKAGE_PATH = os.path.dirname(__file__)  # noqa: PTH120, dbt joins it with text
