"""Read a version of an MLflow registry: its ONNX file, its signature, and where it comes from.

A stored model is not trusted: paths in it must stay in the downloaded folder, and no code of it is run.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

import onnx
from google.protobuf.message import DecodeError

from dbt_onnx.artifacts.artifact import MAX_MODEL_BYTES, read_below
from dbt_onnx.artifacts.hostile import external_tensors
from dbt_onnx.artifacts.registry import ModelVersion, alias_faults, name_faults
from dbt_onnx.authoring.infer import feature_names_of, names_its_features
from dbt_onnx.errors import ArtifactError, ConfigError, RegistryError, format_items, shortened
from dbt_onnx.kernel.native import Memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dbt_onnx.artifacts.graph import GraphSignature
    from dbt_onnx.authoring.infer import ModelOptions

MAX_MLMODEL_BYTES = 2**24
MAX_TAGS, MAX_TAG_CHARACTERS = 100, 500
_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")
_FLOATS = {"float", "double"}
_NOT_ONE_VALUE = {"tensor", "array", "object", "map"}


@dataclass(frozen=True, kw_only=True)
class MlflowVersion:
    """A version of a model in MLflow's registry. `alias` is the one that it was asked for with.

    `run_id` is None if no run has logged it. Tags are texts; long ones are left out.
    """

    model: str
    version: str
    alias: str | None
    run_id: str | None
    version_tags: Mapping[str, str]
    run_tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        return f"models:/{self.model}/{self.version}"

    def facts(self) -> dict[str, Any]:
        """Return what the card says about the origin of the model, for its part `training`."""
        return {"registered_from": self.uri, "mlflow": asdict(self)}


@dataclass(frozen=True)
class Column:
    """An input column of a signature. `may_be_missing` if it had missing values in training."""

    name: str
    type: str
    may_be_missing: bool


def find_version(uri: str) -> MlflowVersion:
    """Look up `models:/NAME@ALIAS` or `models:/NAME/VERSION`; MLFLOW_TRACKING_URI says where.

    Raises ConfigError for another URI or without mlflow, RegistryError if MLflow does not answer with it.
    """
    parts = _URI.fullmatch(uri)
    if parts is None:
        raise ConfigError(
            f"{uri!r} is not a version in MLflow's registry",
            hint="write models:/NAME@ALIAS or models:/NAME/VERSION, such as models:/churn@champion",
        )
    with _mlflow(uri) as mlflow:
        client = mlflow.MlflowClient()
        if parts["alias"]:
            found = client.get_model_version_by_alias(parts["name"], parts["alias"])
        else:
            found = client.get_model_version(parts["name"], parts["version"])
        run_tags: dict[str, str] = {}
        # the run may have been deleted since, or belong to somebody else
        with suppress(mlflow.exceptions.MlflowException):
            run_tags = client.get_run(found.run_id).data.tags if found.run_id else {}
    return MlflowVersion(
        model=parts["name"],
        version=str(found.version),
        alias=parts["alias"],
        run_id=found.run_id or None,
        version_tags=_short(found.tags),
        run_tags=_short(run_tags),
    )


def local_names(
    found: MlflowVersion, *, name: str | None, version: str | None, alias: str | None
) -> tuple[ModelVersion, str | None]:
    """Return model and alias under which a version is registered here: as in MLflow, unless given.

    Raises ConfigError, with every fault, if MLflow allows a name that is not allowed here.
    """
    model = ModelVersion(name or found.model, version or found.version)
    alias = alias or found.alias
    faults = name_faults(model.name, what="the name")
    faults += name_faults(model.version, what="the version")
    faults += alias_faults(alias) if alias else []
    if faults:
        raise ConfigError(
            f"{found.uri}: {'; '.join(faults)}",
            hint="choose plain ones with --name, --version and --alias, such as --name churn",
        )
    return model, alias


def fetch_model(found: MlflowVersion, folder: Path) -> tuple[Path, list[Column]]:
    """Download a version into `folder`. Return its ONNX file, without external data, and its input columns.

    There are no columns if the signature has none, or names tensors. Raises RegistryError if MLflow
    fails, ArtifactError if the version has no ONNX file, or a file that names others outside the folder.
    """
    with _mlflow(found.uri) as mlflow:
        stored = Path(mlflow.artifacts.download_artifacts(found.uri, dst_path=str(folder)))
    described = _described(stored, found)
    flavors = _mapping(described.get("flavors"))
    relative = _mapping(flavors.get("onnx")).get("data")
    if not isinstance(relative, str):
        raise ArtifactError(
            f"{found.uri} has no ONNX file: its flavors are {format_items(sorted(map(str, flavors)))}",
            hint="write one where the model was trained, with dbt_onnx.export (scikit-learn, LightGBM, "
            "XGBoost, CatBoost) or with its library's converter and mlflow.onnx.log_model",
        )
    path = folder / "one_file.onnx"
    path.write_bytes(as_one_file(stored, relative, where=found.uri))
    return path, _columns(_mapping(described.get("signature")).get("inputs"))


def with_signature(
    options: ModelOptions, columns: Sequence[Column], signature: GraphSignature
) -> ModelOptions:
    """Add to `options` what the signature says and neither they nor the file do: names and missing values.

    A column of floats that had missing values in training gets the null policy `nan`.
    """
    names = options.features or feature_names_of(signature)
    if names is None:
        is_by_column = names_its_features(signature)
        names = [item.name for item in (signature.inputs if is_by_column else columns)]
    said = {*options.null_policies, *options.fills}
    policies = {
        item.name: "nan"
        for item in columns
        if item.may_be_missing and item.type in _FLOATS and item.name in names
        if not said & {item.name, "*"}
    }
    return replace(
        options,
        features=names or None,
        null_policies={**options.null_policies, **cast("Any", policies)},
    )


def as_one_file(folder: Path, relative: str, *, where: str) -> bytes:
    """Read an ONNX file below `folder`, and put the tensors that it keeps in other files of `folder` into it.

    `relative` and the names of these files are untrusted. Raises ArtifactError if one is not a regular
    file below `folder`, or if a tensor is not in its file. Bytes that are not ONNX are returned as they are.
    """
    content = _read(folder, relative, where=where)
    try:
        # a parsed file may take a hundred times its size in memory
        with Memory().bounded():
            model = onnx.ModelProto.FromString(content)
        tensors = external_tensors(model, where=where)
    except (DecodeError, UnicodeDecodeError):
        return content
    if not tensors:
        return content
    files: dict[str, bytes] = {}
    size = len(content)
    for tensor in tensors:
        keys = {item.key: item.value for item in tensor.external_data}
        location = str(PurePosixPath(relative).parent / keys.get("location", ""))
        if location not in files:
            files[location] = _read(folder, location, where=where)
        available = len(files[location])
        start, length = keys.get("offset", "0"), keys.get("length", "")
        begin = int(start) if start.isdecimal() else -1
        end = available if not length else begin + int(length) if length.isdecimal() else -1
        if not 0 <= begin <= end <= available:
            raise ArtifactError(
                f"{where}: tensor {tensor.name!r} is not in {location!r}, a file of {available:,} bytes "
                f"(offset {start:.20}, length {length or 'missing':.20})",
                hint="log the model again: its files do not belong together",
            )
        size += end - begin
        if size >= MAX_MODEL_BYTES:
            raise ArtifactError(
                f"{where} has more than {MAX_MODEL_BYTES:,} bytes with its external data",
                hint="export a smaller model: one ONNX file has less than 2 GiB",
            )
        tensor.raw_data = files[location][begin:end]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return cast("bytes", model.SerializeToString(deterministic=True))


@contextmanager
def _mlflow(uri: str) -> Iterator[Any]:
    """Import mlflow, without its telemetry, warnings and progress bars; turn its errors into RegistryError."""
    # mlflow reads these when it is imported; it obeys DO_NOT_TRACK only if that is the word "true"
    for name, value in (
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("DO_NOT_TRACK", "true"),
        ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"),
    ):
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import mlflow
            import mlflow.artifacts
        except ImportError as error:
            raise ConfigError(
                "importing a model from MLflow needs the package mlflow-skinny",
                hint="pip install 'dbt-onnx[mlflow]'",
            ) from error
        try:
            yield mlflow
        # a store's libraries raise their own errors: of HTTP, of a cloud, of a database
        except Exception as error:
            raise RegistryError(
                f"MLflow has not given {uri}: {shortened(' '.join(str(error).split()), 1_000)}",
                hint="check the name, and that MLFLOW_TRACKING_URI (or MLFLOW_REGISTRY_URI) names "
                "the server",
            ) from error


def _read(folder: Path, relative: str, *, where: str, max_bytes: int = MAX_MODEL_BYTES) -> bytes:
    try:
        return read_below(folder, relative, max_bytes=max_bytes)
    except ArtifactError as error:
        raise ArtifactError(
            f"{where}: {error.message}",
            hint="log the model again with mlflow.onnx.log_model, which stores plain files",
        ) from error


def _described(folder: Path, found: MlflowVersion) -> Mapping[str, Any]:
    import yaml

    content = _read(folder, "MLmodel", where=found.uri, max_bytes=MAX_MLMODEL_BYTES)
    try:
        described = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError):
        described = None
    if not isinstance(described, dict):
        raise ArtifactError(
            f"the file MLmodel of {found.uri} cannot be read",
            hint="log the model again with mlflow.onnx.log_model",
        )
    return described


def _columns(inputs: object) -> list[Column]:
    """Read the inputs of a signature, a JSON text. Only if every column is one value with a name."""
    try:
        specs = json.loads(inputs) if isinstance(inputs, str) else None
    except (ValueError, RecursionError):
        specs = None
    found = []
    for spec in specs if isinstance(specs, list) else []:
        column = _mapping(spec)
        name, kind = column.get("name"), column.get("type")
        if not (isinstance(name, str) and name and isinstance(kind, str)) or kind in _NOT_ONE_VALUE:
            return []
        found.append(Column(name, kind, may_be_missing=column.get("required") is False))
    return found


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _short(tags: Mapping[Any, Any]) -> dict[str, str]:
    short = {
        key: value
        for key, value in tags.items()
        if isinstance(key, str) and isinstance(value, str)
        if max(len(key), len(value)) <= MAX_TAG_CHARACTERS
    }
    return dict(sorted(short.items())[:MAX_TAGS])
