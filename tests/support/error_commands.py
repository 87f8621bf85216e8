"""Rows of docs/errors.md that the command line reports: wrong calls, or wrong files.

Each function gets a folder with a registry of the model `line`: version 1 is champion, 2 is challenger, 3 has no
alias. It returns the arguments of `dbt-onnx`.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow_store
import onnx_models
import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner
from onnx import external_data_helper, helper
from warehouse import line_contract, line_model

from dbt_onnx.artifacts.artifact import write_artifact
from dbt_onnx.artifacts.registry_file import put_entry
from dbt_onnx.cli import main
from dbt_onnx.promotion.promotions_file import PROMOTION_COLUMNS
from dbt_onnx.serving.manifest import POINTER

if TYPE_CHECKING:
    from click.testing import Result

Command = Callable[[Path], Sequence[object]]
COMMANDS: dict[str, Command] = {}
FEATURES = ("--features", "a,b")
TAKEN: list[socket.socket] = []


def command(function: Command) -> Command:
    """Register a command under its id: the function's name with hyphens."""
    COMMANDS[function.__name__.replace("_", "-")] = function
    return function


def create_files(folder: Path) -> None:
    """Create the registry, its artifacts, and a model that is not registered yet."""
    for version, alias in (("1", "champion"), ("2", "challenger"), ("3", None)):
        entry = write_artifact(
            folder / "artifacts",
            line_model(a=float(version)),
            model_name="line",
            model_version=version,
            contract=line_contract(),
        )
        put_entry(folder / "seeds" / "model_registry.csv", replace(entry, alias=alias))
    save(folder, onnx_models.linear())


def save(folder: Path, model: Any) -> None:
    (folder / "new.onnx").write_bytes(model.SerializeToString())


def called(folder: Path, arguments: Sequence[object]) -> Result:
    """Call `dbt-onnx` for a folder, unless the arguments name another folder."""
    is_elsewhere = "--project-dir" in arguments or arguments[0] == "serve"
    where = () if is_elsewhere else ("--project-dir", folder)
    return CliRunner(env=mlflow_store.variables(folder)).invoke(
        main, [str(item) for item in (*arguments, *where)]
    )


def message_and_hint(result: Result) -> tuple[str, str]:
    """Return the message and the hint that a failed command printed to standard error."""
    text = " ".join(result.stderr.split())
    found = re.fullmatch(r"(?:Usage: .*?)?Error: (.*?)(?: Hint: (.*))?", text)
    return (found[1], found[2] or "") if found else (text, "")


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below the folder."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


# register


def register(folder: Path, *options: object) -> Sequence[object]:
    names = ("--name", "line", "--version", "4") if "--name" not in options else ()
    return ("register", folder / "new.onnx", *names, *options)


@command
def register_file_missing(folder: Path) -> Sequence[object]:
    (folder / "new.onnx").unlink()
    return register(folder)


@command
def register_folder(folder: Path) -> Sequence[object]:
    (folder / "new.onnx").unlink()
    (folder / "new.onnx").mkdir()
    return register(folder)


@command
def register_name_malformed(folder: Path) -> Sequence[object]:
    return register(folder, *FEATURES, "--name", "my model", "--version", "1")


@command
def register_alias_malformed(folder: Path) -> Sequence[object]:
    return register(folder, *FEATURES, "--alias", "Champion")


@command
def register_features_unnamed(folder: Path) -> Sequence[object]:
    return register(folder)


@command
def register_features_miscounted(folder: Path) -> Sequence[object]:
    return register(folder, "--features", "a,b,c")


@command
def register_feature_twice(folder: Path) -> Sequence[object]:
    return register(folder, "--features", "a,A")


@command
def register_feature_unknown(folder: Path) -> Sequence[object]:
    return register(folder, *FEATURES, "--null-policy", "z=nan")


@command
def register_policy_unknown(folder: Path) -> Sequence[object]:
    return register(folder, *FEATURES, "--null-policy", "a=ignore")


@command
def register_fill_of_another_type(folder: Path) -> Sequence[object]:
    return register(folder, *FEATURES, "--fill", "a=none")


@command
def register_option_without_value(folder: Path) -> Sequence[object]:
    return register(folder, *FEATURES, "--output", "y")


@command
def register_output_unknown(folder: Path) -> Sequence[object]:
    return register(folder, *FEATURES, "--output", "z=score")


@command
def register_columns_miscounted(folder: Path) -> Sequence[object]:
    return register(folder, *FEATURES, "--output", "y=low,high")


@command
def register_classes_unknown(folder: Path) -> Sequence[object]:
    return register(folder, *FEATURES, "--output", "y:probabilities=p")


@command
def register_classes_miscounted(folder: Path) -> Sequence[object]:
    save(folder, onnx_models.classifier([0, 1]))
    return register(folder, *FEATURES, "--classes", "probabilities=no,yes,maybe")


@command
def register_classes_otherwise(folder: Path) -> Sequence[object]:
    save(folder, onnx_models.classifier([0, 1]))
    return register(folder, *FEATURES, "--classes", "probabilities=1,0")


@command
def register_classes_against_labels(folder: Path) -> Sequence[object]:
    # the classifier in the graph has other class names than the label output
    model = onnx_models.classifier([1, 0])
    model.graph.node[0].output[0] = "inner"
    model.graph.node.append(
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0)
    )
    save(folder, model)
    return register(folder, *FEATURES)


@command
def register_classes_of_scores(folder: Path) -> Sequence[object]:
    save(folder, onnx_models.vector(2))
    return register(folder, *FEATURES, "--classes", "embedding=no,yes")


@command
def register_output_of_a_type_without_columns(folder: Path) -> Sequence[object]:
    kind = onnx_models.TensorProto.BFLOAT16
    node = helper.make_node("Cast", ["x"], ["y"], to=kind)
    inputs, outputs = [onnx_models.tensor("x", ["n", 2])], [onnx_models.tensor("y", ["n", 2], kind)]
    save(folder, onnx_models.model([node], inputs, outputs))
    return register(folder, *FEATURES)


@command
def register_output_reserved(folder: Path) -> Sequence[object]:
    return register(folder, *FEATURES, "--output", "y=as_of")


@command
def register_too_many_axes(folder: Path) -> Sequence[object]:
    save(folder, onnx_models.linear(shape=["n", 2, 1]))
    return register(folder, *FEATURES)


@command
def register_rows_depend_on_each_other(folder: Path) -> Sequence[object]:
    model = onnx_models.linear()
    model.graph.node[1].output[0] = "u"
    model.graph.node.append(helper.make_node("Softmax", ["u"], ["y"], axis=0))
    save(folder, model)
    return register(folder, *FEATURES)


@command
def register_one_answer_for_all_rows(folder: Path) -> Sequence[object]:
    model = onnx_models.linear()
    model.graph.node[1].output[0] = "u"
    model.graph.node.append(helper.make_node("ReduceSum", ["u"], ["y"]))
    save(folder, model)
    return register(folder, *FEATURES)


@command
def register_version_again(folder: Path) -> Sequence[object]:
    return register(folder, *FEATURES, "--name", "line", "--version", "1")


@command
def register_differs_in_case(folder: Path) -> Sequence[object]:
    return register(folder, *FEATURES, "--name", "Line", "--version", "1")


@command
def register_alias_taken(folder: Path) -> Sequence[object]:
    return register(folder, *FEATURES, "--alias", "champion")


def rows(folder: Path, name: str, **columns: list[Any]) -> Path:
    """Write a Parquet file for --sample or --expected."""
    path = folder / name
    pq.write_table(pa.table(columns), path)
    return path


@command
def register_sample_not_parquet(folder: Path) -> Sequence[object]:
    (folder / "rows.parquet").write_text("a,b")
    return register(folder, *FEATURES, "--sample", folder / "rows.parquet")


@command
def register_sample_without_a_column(folder: Path) -> Sequence[object]:
    return register(folder, *FEATURES, "--sample", rows(folder, "rows.parquet", a=[1.0]))


@command
def register_sample_empty(folder: Path) -> Sequence[object]:
    return register(folder, *FEATURES, "--sample", rows(folder, "rows.parquet", a=[], b=[]))


@command
def register_sample_with_null(folder: Path) -> Sequence[object]:
    path = rows(folder, "rows.parquet", a=[1.0, None], b=[1.0, 2.0])
    return register(folder, *FEATURES, "--sample", path)


@command
def register_expected_alone(folder: Path) -> Sequence[object]:
    return register(folder, *FEATURES, "--expected", rows(folder, "answers.parquet", y=[1.0]))


def with_answers(folder: Path, **answers: list[Any]) -> Sequence[object]:
    sample = rows(folder, "rows.parquet", a=[1.0, 2.0], b=[1.0, 2.0])
    expected = rows(folder, "answers.parquet", **answers)
    return register(folder, *FEATURES, "--sample", sample, "--expected", expected)


@command
def register_expected_otherwise(folder: Path) -> Sequence[object]:
    return with_answers(folder, prediction=[1.5, 3.5])


@command
def register_expected_miscounted(folder: Path) -> Sequence[object]:
    return with_answers(folder, prediction=[1.5])


@command
def register_expected_unknown(folder: Path) -> Sequence[object]:
    return with_answers(folder, score=[1.5, 2.5])


@command
def register_expected_with_null(folder: Path) -> Sequence[object]:
    return with_answers(folder, prediction=[1.5, None])


# import


@command
def import_uri_malformed(folder: Path) -> Sequence[object]:
    return ("import", "mlflow", "models:/line/Production")


@command
def import_version_unknown(folder: Path) -> Sequence[object]:
    mlflow_store.put(folder, "line", {"MLmodel": ""})
    return ("import", "mlflow", "models:/line@challenger")


@command
def import_name_not_allowed(folder: Path) -> Sequence[object]:
    mlflow_store.put(folder, "the line", {"MLmodel": ""})
    return ("import", "mlflow", "models:/the line@champion")


@command
def import_without_onnx(folder: Path) -> Sequence[object]:
    mlflow_store.put(folder, "line", {"MLmodel": "flavors: {python_function: {}, sklearn: {}}"})
    return ("import", "mlflow", "models:/line@champion")


@command
def import_file_elsewhere(folder: Path) -> Sequence[object]:
    mlflow_store.put(folder, "line", {"MLmodel": "flavors: {onnx: {data: ../../seeds/x.onnx}}"})
    return ("import", "mlflow", "models:/line@champion")


@command
def import_data_cut_short(folder: Path) -> Sequence[object]:
    model = onnx_models.linear()
    external_data_helper.set_external_data(model.graph.initializer[0], "w.bin", length=8)
    mlflow_store.put(
        folder,
        "line",
        {"MLmodel": mlflow_store.ONNX, "model.onnx": model.SerializeToString(), "w.bin": b"1234"},
    )
    return ("import", "mlflow", "models:/line@champion")


# alert


@command
def report_folder_missing(folder: Path) -> Sequence[object]:
    return ("report", "--out", folder / "nowhere" / "report.html")


@command
def alert_without_a_receiver(folder: Path) -> Sequence[object]:
    return ("alert",)


# explain


@command
def explain_neither_key_nor_run(folder: Path) -> Sequence[object]:
    return ("explain", "scores")


# the registry file


def rewrite(folder: Path, old: str, new: str) -> None:
    path = folder / "seeds" / "model_registry.csv"
    path.write_text(path.read_text().replace(old, new, 1))


@command
def seed_missing(folder: Path) -> Sequence[object]:
    (folder / "seeds" / "model_registry.csv").unlink()
    return ("verify",)


@command
def seed_without_a_column(folder: Path) -> Sequence[object]:
    rewrite(folder, ",sha256", ",checksum")
    return ("verify",)


@command
def seed_with_a_column_twice(folder: Path) -> Sequence[object]:
    rewrite(folder, ",sha256", ",sha256,alias")
    return ("verify",)


@command
def seed_not_text(folder: Path) -> Sequence[object]:
    path = folder / "seeds" / "model_registry.csv"
    path.write_bytes(path.read_bytes() + b"\xff\xfe")
    return ("verify",)


# promote and rollback


def promotions(folder: Path, *lines: str) -> None:
    path = folder / "seeds" / "model_promotions.csv"
    path.write_text("\n".join((",".join(PROMOTION_COLUMNS), *lines)) + "\n")


def promotion(version: str, before: str = "", action: str = "promote") -> str:
    return f"2024-01-0{version}T00:00:00.000000Z,line,{version},{before},{action},passed,"


@command
def promote_no_version(folder: Path) -> Sequence[object]:
    return ("promote", "line")


@command
def promote_champion(folder: Path) -> Sequence[object]:
    return ("promote", "line/1")


@command
def promote_without_a_reason(folder: Path) -> Sequence[object]:
    return ("promote", "line/2", "--override", "  ")


@command
def promote_limit_out_of_range(folder: Path) -> Sequence[object]:
    return ("promote", "line/2", "--max-rejected", "10")


@command
def rollback_nothing_recorded(folder: Path) -> Sequence[object]:
    return ("rollback", "line")


@command
def rollback_of_the_first(folder: Path) -> Sequence[object]:
    promotions(folder, promotion("1"))
    return ("rollback", "line")


@command
def rollback_after_an_edit(folder: Path) -> Sequence[object]:
    promotions(folder, promotion("1"), promotion("2", before="1"))
    return ("rollback", "line")


@command
def rollback_to_the_champion(folder: Path) -> Sequence[object]:
    return ("rollback", "line", "--to", "1")


@command
def rollback_to_no_champion(folder: Path) -> Sequence[object]:
    promotions(folder, promotion("2"), promotion("1", before="2"))
    return ("rollback", "line", "--to", "3")


@command
def promotions_without_a_column(folder: Path) -> Sequence[object]:
    (folder / "seeds" / "model_promotions.csv").write_text("promoted_at,model_name\n")
    return ("rollback", "line")


@command
def promotions_not_valid(folder: Path) -> Sequence[object]:
    promotions(folder, promotion("1", action="approve"))
    return ("rollback", "line")


# invalid calls


@command
def project_folder_missing(folder: Path) -> Sequence[object]:
    return ("verify", "--project-dir", folder / "nowhere")


@command
def no_dbt_project(folder: Path) -> Sequence[object]:
    return ("runs",)


@command
def variables_malformed(folder: Path) -> Sequence[object]:
    return ("runs", "--vars", "[1998-04-01]")


@command
def period_malformed(folder: Path) -> Sequence[object]:
    return ("status", "--stale-after", "two days")


@command
def backfill_day_malformed(folder: Path) -> Sequence[object]:
    return ("backfill", "scores", "--from", "June", "--to", "2024-01-01", "--every", "day")


@command
def backfill_backwards(folder: Path) -> Sequence[object]:
    days = ("--from", "2024-02-01", "--to", "2024-01-01")
    return ("backfill", "scores", *days, "--every", "day")


# serve


def serve_with_tokens(folder: Path, content: bytes) -> Sequence[object]:
    (folder / "tokens").write_bytes(content)
    return ("serve", folder, "--tokens", folder / "tokens")


@command
def serve_folder_is_a_publication(folder: Path) -> Sequence[object]:
    (folder / POINTER).touch()
    return ("serve", folder)


@command
def serve_open_to_others(folder: Path) -> Sequence[object]:
    return ("serve", folder, "--host", "0.0.0.0")


@command
def serve_tokens_and_no_auth(folder: Path) -> Sequence[object]:
    return (*serve_with_tokens(folder, b""), "--no-auth")


@command
def serve_tokens_malformed(folder: Path) -> Sequence[object]:
    return serve_with_tokens(folder, b"# who may ask\nthe token itself\n")


@command
def serve_tokens_empty(folder: Path) -> Sequence[object]:
    return serve_with_tokens(folder, b"# nobody\n")


@command
def serve_tokens_not_text(folder: Path) -> Sequence[object]:
    return serve_with_tokens(folder, b"\xff")


def serve_with_webhooks(folder: Path, content: bytes, *, mode: int = 0o600) -> Sequence[object]:
    (folder / "webhooks.toml").write_bytes(content)
    (folder / "webhooks.toml").chmod(mode)
    return ("serve", folder, "--webhooks", folder / "webhooks.toml")


@command
def serve_webhooks_not_valid(folder: Path) -> Sequence[object]:
    return serve_with_webhooks(folder, b'[crm]\nurl = "crm.example"\nsecret = "whsec_"\n[x]\n')


@command
def serve_webhooks_empty(folder: Path) -> Sequence[object]:
    return serve_with_webhooks(folder, b"# nobody\n")


@command
def serve_webhooks_not_toml(folder: Path) -> Sequence[object]:
    return serve_with_webhooks(folder, b"crm https://crm.example whsec_\xff\n")


@command
def serve_webhooks_open_to_all(folder: Path) -> Sequence[object]:
    return serve_with_webhooks(folder, b"", mode=0o644)


@command
def serve_address_taken(folder: Path) -> Sequence[object]:
    taken = socket.create_server(("127.0.0.1", 0))
    # the socket is closed at the end of the process
    TAKEN.append(taken)
    return ("serve", folder, "--port", taken.getsockname()[1])
