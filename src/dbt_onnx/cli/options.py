"""The group of all commands, and the options and exit codes that they share."""

from __future__ import annotations

import functools
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbt_onnx.errors import ConfigError, DbtOnnxError, RegistryError
from dbt_onnx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


class _Group(click.Group):
    """A command group that prints a DbtOnnxError as one message and a hint, instead of a traceback.

    Exit code 1: a model, a card or a check is wrong. Exit code 2: the call or the registry is wrong.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DbtOnnxError as error:
            from dbt_onnx.cli.show.console import show_error

            show_error(error.message, error.hint)
            ctx.exit(EXIT_USAGE if isinstance(error, ConfigError | RegistryError) else EXIT_FAILED)


@click.group(
    cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.version_option(__version__, prog_name="dbt-onnx")
def main() -> None:
    """Register and verify ONNX models, and audit their predictions, in a dbt project."""


FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)
FILE = click.Path(path_type=Path, dir_okay=False)
MOMENT = click.DateTime(["%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"])

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _period(text: str) -> timedelta:
    found = re.fullmatch(r"([1-9][0-9]{0,8})([smhdw])", text)
    if found is None:
        raise click.BadParameter(f"{text!r} is not a period such as 36h, 2d or 1w")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


stale_after = click.option(
    "--stale-after",
    type=_period,
    metavar="PERIOD",
    default="2d",
    help="A prediction older than this is stale: 90m, 36h, 2d, 1w.",
)
as_json = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document, and nothing else."
)
project_dir = click.option(
    "--project-dir",
    type=FOLDER,
    default=".",
    help="The dbt project; its model files are in artifacts/.",
)
registry = click.option(
    "--registry",
    type=FILE,
    default="seeds/model_registry.csv",
    help="The registry seed, a path in the project.",
)
profiles_dir = click.option(
    "--profiles-dir",
    type=FOLDER,
    envvar="DBT_PROFILES_DIR",
    help="The folder of profiles.yml; as in dbt.",
)
target = click.option("--target", "-t", help="The target of the profile; as in dbt.")


def _variables(text: str) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict):
        raise click.BadParameter(
            f"{text!r} is not a mapping such as '{{dbt_onnx_clock: \"1998-04-01\"}}'"
        )
    return found


variables = click.option(
    "--vars", "variables", type=_variables, metavar="YAML", help="dbt's variables; as in dbt."
)


def project(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a dbt project to a command, and pass it the opened project as `project`."""

    @project_dir
    @profiles_dir
    @target
    @variables
    @functools.wraps(command)
    def with_project(**given: Any) -> Any:
        from dbt_onnx.project.dbt_project import DbtProject

        names = ("project_dir", "profiles_dir", "target", "variables")
        opened = DbtProject(**{name: given.pop(name) for name in names})
        return command(project=opened, **given)

    return with_project
