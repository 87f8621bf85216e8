"""Register any ONNX file as a version: copy the file, write a card with a sample, add a registry row.

The sample is the owner's rows if there are some (`training_rows`), else generated ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from dbt_onnx.artifacts.artifact import MAX_MODEL_BYTES, write_artifact
from dbt_onnx.artifacts.graph import GraphSignature, read_graph
from dbt_onnx.artifacts.registry import ModelVersion, RegistryEntry, name_faults
from dbt_onnx.artifacts.registry_file import add_entry, check_addition
from dbt_onnx.artifacts.sample import TOLERANCE, mean_magnitudes_of, score_sample
from dbt_onnx.authoring.infer import (
    Description,
    ModelOptions,
    describe_model,
    names_its_features,
    sample_columns,
)
from dbt_onnx.authoring.training_rows import parts_from
from dbt_onnx.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dbt_onnx.authoring.training_rows import TrainingRows
    from dbt_onnx.kernel.contract import Contract

ROW_BY_ROW = (
    "the batch is fixed at 1, so each row is scored in its own call, which takes 10 to 100 times "
    "as long; export the model with a dynamic first axis (torch: dynamic_axes={'x': {0: 'batch'}})"
)


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A newly registered version.

    `rows_tried` is the number of rows of the largest call in the trial, `rows_compared` how many rows of
    the owner were compared with the answers of the original model. `warnings` are for the user.
    """

    entry: RegistryEntry
    contract: Contract
    rows_tried: int
    rows_compared: int = 0
    warnings: tuple[str, ...] = ()


def read_model(path: Path, *, where: str | None = None) -> tuple[bytes, GraphSignature]:
    """Read an ONNX file, which messages about the model call `where`, by default its path.

    Raises ArtifactError if it cannot be read, and the errors of `read_graph`.
    """
    try:
        if not path.is_file():
            raise ArtifactError(
                f"{path} is not a file" if path.exists() else f"{path} does not exist",
                hint="name an ONNX file",
            )
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise ArtifactError(
                f"{path} has {path.stat().st_size:,} bytes; an ONNX file has at most 2 GiB",
                hint="export a smaller model, in one file",
            )
        model_bytes = path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read: {error.strerror or error}",
            hint="name an ONNX file that you may read",
        ) from error
    return model_bytes, read_graph(model_bytes, where=where or str(path))


def register_model(
    path: Path,
    options: ModelOptions,
    *,
    model_name: str,
    model_version: str,
    alias: str | None,
    move_alias: bool,
    artifacts: Path,
    registry: Path,
    rows: TrainingRows | None = None,
    replace_version: bool = False,
    where: str | None = None,
    training: Mapping[str, Any] | None = None,
) -> Registration:
    """Inspect a file, copy it below `artifacts`, write its card and add its row to `registry`.

    With `rows`, the card has their sample and distributions, and features that neither `options` nor
    the file names are the columns of their file. With `replace_version`, a version that exists is
    overwritten, and keeps its alias unless another is given; the caller knows that nothing was scored
    with it. Messages call the file `where`, by default its path. `training` are more facts for the card.

    The row is written last: if any step fails, no version is registered. Raises ConfigError for a bad
    name, and the errors of `read_model`, `describe_model`, `parts_from`, `write_artifact` and
    `add_entry`.
    """
    faults = name_faults(model_name, what="--name")
    if faults := faults + name_faults(model_version, what="--version"):
        raise ConfigError("; ".join(faults), hint="choose a plain name, such as 'churn' and '1'")
    model = ModelVersion(model_name, model_version)
    check_addition(
        registry, model, alias=alias, move_alias=move_alias, replace_version=replace_version
    )
    where = where or str(path)
    model_bytes, signature = read_model(path, where=where)
    if rows is not None and options.features is None and not names_its_features(signature):
        options = replace(options, features=rows.column_names())
    description = describe_model(model_bytes, signature, options, where=where)
    warnings: list[str] = []
    if rows is None:
        parts = _generated_parts(model_bytes, signature, description, warnings)
    else:
        parts = parts_from(rows, model_bytes, description.contract, batch_rows=signature.batch_rows)
    if signature.batch_rows == 1:
        warnings.insert(0, ROW_BY_ROW)
    entry = write_artifact(
        artifacts,
        model_bytes,
        model_name=model_name,
        model_version=model_version,
        contract=description.contract,
        replace=replace_version,
        training={"registered_from": path.name, "sample": _origin(rows), **(training or {})},
        **parts,
    )
    entry = add_entry(
        registry,
        replace(entry, alias=alias),
        move_alias=move_alias,
        replace_version=replace_version,
    )
    return Registration(
        entry=entry,
        contract=description.contract,
        rows_tried=signature.batch_rows or description.trial.rows_tried,
        rows_compared=parts["parity"].get("rows_compared", 0),
        warnings=tuple(warnings),
    )


def _generated_parts(
    model_bytes: bytes, signature: GraphSignature, description: Description, warnings: list[str]
) -> Mapping[str, Any]:
    """Return the card's part `parity` with the rows of the trial. Adds to `warnings` if the model fails on some."""
    features = sample_columns(description)
    outputs = score_sample(
        model_bytes, description.contract, features, batch_rows=signature.batch_rows
    )
    column = next(iter(outputs.values()))
    if rejected := column.count(None):
        warnings.append(
            f"the model gives NaN or infinity for {rejected} of the {len(column)} rows that it was tried "
            "with (numbers from -3 to 3 in steps of 0.25, whole numbers from 0 to 7, texts of one "
            "letter, the first row zeros or empty); a run rejects such a row"
        )
    parity = {
        "features": features,
        "outputs": outputs,
        "tolerance": TOLERANCE,
        "scales": mean_magnitudes_of(description.contract, outputs),
    }
    return {"parity": parity}


def _origin(rows: TrainingRows | None) -> str:
    if rows is None:
        return f"generated rows, scored with onnxruntime {version('onnxruntime')}"
    expected = f", compared with {rows.expected.name}" if rows.expected else ""
    return f"{rows.features.name}{expected}"
