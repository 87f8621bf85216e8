"""`dbt-onnx inspect`, `register`, `verify`, `sign`: commands for models before they score."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import click

from dbt_onnx.cli import options
from dbt_onnx.errors import ConfigError
from dbt_onnx.kernel.contract import TimeUnit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dbt_onnx.artifacts.registry import ModelVersion
    from dbt_onnx.authoring.infer import ModelOptions


@options.main.command()
@click.argument("file", type=click.Path(path_type=Path))
def inspect(file: Path) -> None:
    """Print the inputs and outputs of the model in FILE, and what registering it needs."""
    from dbt_onnx.authoring.register import read_model
    from dbt_onnx.cli.show.models import show_model

    model_bytes, signature = read_model(file)
    show_model(file, model_bytes, signature)


def registration(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a registration to a command. It is passed the ModelOptions as `model_options`,
    and `put`: a function (file, ModelVersion, its alias, ModelOptions) that registers a file, and prints it.
    """

    @click.option(
        "--features",
        metavar="A,B,C",
        help="Columns in the order of the model's inputs; A[3] is a list column of 3 values.",
    )
    @click.option(
        "--output",
        "outputs",
        multiple=True,
        metavar="NAME[:KIND]=COL,...",
        help="Columns of an output, '-' for a value that is not stored; no columns: the output is left out.",
    )
    @click.option(
        "--classes",
        multiple=True,
        metavar="OUTPUT=A,B",
        help="Labels of the probabilities, in the model's order.",
    )
    @click.option(
        "--null-policy",
        "policies",
        multiple=True,
        metavar="FEATURE=nan|reject",
        help="Pass NULL as NaN, or reject the row; '*' is every feature.",
    )
    @click.option(
        "--fill",
        "fills",
        multiple=True,
        metavar="FEATURE=VALUE",
        help="Value to use for NULL; '*' is every feature.",
    )
    @click.option(
        "--time-unit",
        "units",
        multiple=True,
        metavar="FEATURE=UNIT",
        help="Unit in which the model reads a DATE or TIMESTAMP.",
    )
    @click.option("--alias", help="Alias of the version: champion, challenger, ...")
    @click.option("--move-alias", is_flag=True, help="Take the alias from the version that has it.")
    @click.option(
        "--sample",
        type=options.FILE,
        help="Training rows, or many of them, as Parquet, with a column for each feature.",
    )
    @click.option(
        "--expected",
        type=options.FILE,
        help="The original model's outputs for these rows, as Parquet, named like the predictions.",
    )
    @click.option(
        "--tolerance",
        type=click.FloatRange(min=0),
        default=1e-5,
        help="Largest difference from --expected, as a share of the number or of its column's mean size.",
    )
    @click.option(
        "--replace",
        "replace_version",
        is_flag=True,
        help="Overwrite a version with which nothing was scored, in the warehouse of the target.",
    )
    @options.project_dir
    @options.profiles_dir
    @options.target
    @options.registry
    @functools.wraps(command)
    def with_registration(
        features: str | None,
        outputs: Sequence[str],
        classes: Sequence[str],
        policies: Sequence[str],
        fills: Sequence[str],
        units: Sequence[str],
        move_alias: bool,  # noqa: FBT001
        sample: Path | None,
        expected: Path | None,
        tolerance: float,
        replace_version: bool,  # noqa: FBT001
        project_dir: Path,
        profiles_dir: Path | None,
        target: str | None,
        registry: Path,
        **given: Any,
    ) -> None:
        from dbt_onnx.authoring.infer import ModelOptions
        from dbt_onnx.authoring.register import register_model
        from dbt_onnx.authoring.training_rows import TrainingRows
        from dbt_onnx.cli.show.models import show_registration

        if expected is not None and sample is None:
            raise ConfigError(
                "--expected has the outputs for the rows of --sample, which is missing",
                hint="dbt-onnx register FILE --sample rows.parquet --expected outputs.parquet ...",
            )
        model_options = ModelOptions(
            features=_names(features) if features is not None else None,
            outputs={key: _names(value) for key, value in _pairs(outputs, "--output").items()},
            classes={key: _names(value) for key, value in _pairs(classes, "--classes").items()},
            null_policies=cast("Any", _chosen(policies, "--null-policy", ("reject", "nan"))),
            fills=_pairs(fills, "--fill"),
            time_units=cast("Any", _chosen(units, "--time-unit", get_args(TimeUnit))),
        )

        def put(
            file: Path,
            model: ModelVersion,
            alias: str | None,
            model_options: ModelOptions,
            **origin: Any,
        ) -> None:
            if replace_version:
                from dbt_onnx.project.dbt_project import DbtProject
                from dbt_onnx.project.scored import refuse_if_scored

                project = DbtProject(project_dir, profiles_dir=profiles_dir, target=target)
                refuse_if_scored(project, model)
            registered = register_model(
                file,
                model_options,
                model_name=model.name,
                model_version=model.version,
                alias=alias,
                move_alias=move_alias,
                artifacts=project_dir / "artifacts",
                registry=project_dir / registry,
                rows=None if sample is None else TrainingRows(sample, expected, tolerance),
                replace_version=replace_version,
                **origin,
            )
            show_registration(registered)

        command(model_options=model_options, put=put, **given)

    return with_registration


@options.main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="The model's name, such as churn.")
@click.option("--version", required=True, help="The new version, such as 2.")
@registration
def register(
    file: Path,
    name: str,
    version: str,
    alias: str | None,
    model_options: ModelOptions,
    put: Callable[..., None],
) -> None:
    """Register FILE as a version of a model: copy it, write its card, add its row to the registry.

    With --sample, the card describes these rows, so that drift can be found later. With --expected, too,
    FILE must give the same outputs as the original model.
    """
    from dbt_onnx.artifacts.registry import ModelVersion

    put(file, ModelVersion(name, version), alias, model_options)


@options.main.command()
@click.option(
    "--signed",
    is_flag=True,
    help="Require that every version is signed with the key of --public-key.",
)
@click.option(
    "--public-key", type=options.FILE, help="Public key (PEM) that verifies the signatures."
)
@click.option(
    "--record-cards",
    is_flag=True,
    help="Write the sha256 of each good card into the registry, where it is missing.",
)
@options.as_json
@options.project_dir
@options.registry
def verify(
    signed: bool,  # noqa: FBT001
    public_key: Path | None,
    record_cards: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
    project_dir: Path,
    registry: Path,
) -> None:
    """Check every registered version: file, sha256, card, graph, and its sample's predictions."""
    from dbt_onnx.artifacts.registry import Registry
    from dbt_onnx.artifacts.registry_file import record_cards as record
    from dbt_onnx.artifacts.signing import SignatureVerifier
    from dbt_onnx.artifacts.verification import unregistered_folders, verify_registry
    from dbt_onnx.cli.show.documents import print_document, verdicts_document
    from dbt_onnx.cli.show.models import show_recorded, show_verdicts

    artifacts, seed = project_dir / "artifacts", project_dir / registry
    entries = Registry.from_csv(seed)
    if signed != (public_key is not None):
        raise ConfigError(
            "--signed and --public-key go together",
            hint="dbt-onnx verify --signed --public-key public.pem",
        )
    verifier = None if public_key is None else SignatureVerifier(public_key)
    verdicts = verify_registry(artifacts, entries, verifier=verifier)
    unregistered = unregistered_folders(artifacts, entries)
    if as_json:
        print_document(verdicts_document(verdicts, unregistered))
    else:
        show_verdicts(verdicts, unregistered=unregistered, recording=record_cards)
    if record_cards:
        digests = {
            (item.entry.model_name, item.entry.model_version): item.card_sha256
            for item in verdicts
            if item.passed and item.card_sha256 is not None
        }
        recorded = record(seed, digests)
        if not as_json:
            show_recorded(registry, *recorded)
    if not all(verdict.passed for verdict in verdicts):
        raise SystemExit(options.EXIT_FAILED)


@options.main.command()
@click.argument("model", metavar="NAME/VERSION")
@click.option(
    "--key",
    required=True,
    type=options.FILE,
    help="The private key, PEM; its password, if it has one, is read from DBT_ONNX_KEY_PASSWORD.",
)
@options.project_dir
@options.registry
def sign(model: str, key: Path, project_dir: Path, registry: Path) -> None:
    """Sign a registered version: its model file and its card, with a key, offline."""
    from dbt_onnx.artifacts.registry import Registry
    from dbt_onnx.artifacts.signing import sign_version
    from dbt_onnx.cli.show.console import print_text

    entry = Registry.from_csv(project_dir / registry).resolve(model)
    password = os.environ.get("DBT_ONNX_KEY_PASSWORD")
    path = sign_version(project_dir / "artifacts", entry, key=key, password=password)
    print_text(f"signed {entry.model}, model and card", style="bold green")
    print_text(f"signature {path}")


def _names(text: str) -> list[str]:
    """`a, b` -> ["a", "b"]; empty text -> []."""
    return [name.strip() for name in text.split(",")] if text.strip() else []


def _pairs(values: Sequence[str], option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for value in values:
        key, sign, wanted = value.partition("=")
        if not sign or not key or key in pairs:
            raise ConfigError(
                f"{option} {value!r} is {'given twice' if key in pairs else 'not of the form NAME=VALUE'}",
                hint=f"write {option} NAME=VALUE, once for each name",
            )
        pairs[key] = wanted
    return pairs


def _chosen(values: Sequence[str], option: str, allowed: Sequence[str]) -> Mapping[str, str]:
    pairs = _pairs(values, option)
    for key, value in pairs.items():
        if value not in allowed:
            raise ConfigError(
                f"{option} {key}={value}: {value!r} is not one of {', '.join(allowed)}",
                hint="choose one of them",
            )
    return pairs
