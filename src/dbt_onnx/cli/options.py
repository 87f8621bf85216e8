"""Options and exit codes that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

WRONG, MISUSED = 1, 2

project_dir = click.option(
    "--project-dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=".",
    show_default=True,
    help="The dbt project; its models lie in artifacts/.",
)
registry = click.option(
    "--registry",
    type=click.Path(path_type=Path, dir_okay=False),
    default="seeds/model_registry.csv",
    show_default=True,
    help="The registry seed, a path in the project.",
)
profiles_dir = click.option(
    "--profiles-dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    envvar="DBT_PROFILES_DIR",
    help="Where profiles.yml lies; as of dbt.",
)
target = click.option("--target", "-t", help="The target of the profile; as of dbt.")


class _Variables(click.ParamType[dict[str, Any]]):
    name = "YAML"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        import yaml

        try:
            variables = yaml.safe_load(value)
        except yaml.YAMLError:
            variables = None
        if not isinstance(variables, dict):
            self.fail(
                f"{value!r} is no mapping such as '{{dbt_onnx_clock: \"1998-04-01\"}}'", param, ctx
            )
        return variables


variables = click.option(
    "--vars", "variables", type=_Variables(), default="{}", help="dbt's variables, as of dbt."
)
