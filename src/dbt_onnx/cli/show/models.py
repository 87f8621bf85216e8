"""What `inspect`, `register` and `verify` print."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from rich.console import Console

from dbt_onnx.authoring.infer import FEATURE_NAMES, ModelOptions, describe_model, feature_names_of
from dbt_onnx.authoring.register import ROW_BY_ROW
from dbt_onnx.cli.show.console import print_text, table
from dbt_onnx.errors import ConfigError, ContractError, ScoringError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from dbt_onnx.artifacts.graph import GraphSignature, Tensor
    from dbt_onnx.artifacts.registry import RegistryEntry
    from dbt_onnx.artifacts.verification import Verdict
    from dbt_onnx.authoring.register import Registration
    from dbt_onnx.kernel.contract import Contract, Output


MAX_LINES = 200


def show_model(path: Path, model_bytes: bytes, signature: GraphSignature) -> None:
    """Print a model's inputs and outputs, and what is needed to register it."""
    console = Console()
    print_text(f"{path}", style="bold")
    print_text(f"size    {len(model_bytes):,} bytes")
    print_text(f"sha256  {hashlib.sha256(model_bytes).hexdigest()}")
    print_text(f"batch   {ROW_BY_ROW}" if signature.batch_rows == 1 else "batch   first axis")
    console.print(table("inputs", ("name", "type", "shape"), map(_input_row, signature.inputs)))
    console.print(
        table("outputs", ("name", "type", "shape", "classes"), map(_output_row, signature.outputs))
    )
    if signature.metadata:
        rows = [(key, value[:200]) for key, value in sorted(signature.metadata.items())]
        console.print(table("metadata", ("key", "value"), rows))
    _show_needs(path, model_bytes, signature)


def show_registration(registration: Registration) -> None:
    """Print the contract of what was registered, and the next step."""
    entry = registration.entry
    show_contract(registration.contract)
    print_text(f"registered {entry.model}", style="bold green", end="")
    print_text(f" as {entry.alias}" if entry.alias else " without an alias")
    print_text(f"artifact {entry.artifact}, sha256 {entry.sha256}")
    print_text(
        f"tried    calls of up to {registration.rows_tried:,} rows, in three orders and twice: no row "
        "changed another row's outputs"
    )
    if registration.rows_compared:
        print_text(
            f"compared {registration.rows_compared:,} rows with the original model's outputs"
        )
    for warning in registration.warnings:
        print_text(f"Warning: {warning}", style="yellow")
    print_text(f"next     commit the folder and the registry; {_next_step(entry)}")


def _next_step(entry: RegistryEntry) -> str:
    name = entry.model_name
    if not entry.alias:
        version = f"{name}/{entry.model_version}"
        return (
            f"no scoring model uses it yet: write score(..., model={version!r}), or make it champion "
            f"with `dbt-onnx promote {version}`"
        )
    asked = name if entry.alias == "champion" else f"{name}@{entry.alias}"
    return f"a model with score(..., model={asked!r}) scores with it in the next `dbt build`"


def show_contract(contract: Contract) -> None:
    """Print the columns that a model reads and fills."""
    rows = []
    for tensor in contract.inputs:
        for name in tensor.features:
            feature = contract.feature(name)
            nulls = f"fill {feature.fill!r}" if feature.null_policy == "fill" else None
            width = f"{tensor.dtype}[{feature.width}]" if feature.width else tensor.dtype
            rows.append((name, width, nulls or feature.null_policy, tensor.name))
    filled = [row for output in contract.outputs for row in _filled_rows(output)]
    for title, header, lines in (
        ("features", ("column", "type", "null", "input"), rows),
        ("predictions", ("column", "type", "kind", "output"), filled),
    ):
        Console().print(table(title, header, lines[:MAX_LINES]))
        if len(lines) > MAX_LINES:
            print_text(f"and {len(lines) - MAX_LINES:,} more columns")


def show_verdicts(
    verdicts: Sequence[Verdict], *, unregistered: Sequence[Path] = (), recording: bool = False
) -> None:
    """Print one row for each registered version, then each fault with its hint.

    Notes follow about folders without a registry row and, unless `recording`, about registry rows
    without a card's digest.
    """
    header = ["model", "alias", "sha256", "sample", "verdict"]
    if any(verdict.is_signed is not None for verdict in verdicts):
        header.insert(3, "signature")
    rows = []
    for verdict in verdicts:
        entry = verdict.entry
        sample = "no sample"
        if verdict.max_abs_difference is not None:
            sample = f"{verdict.sample_rows} rows, within {verdict.max_abs_difference:.1e}"
        cells = {
            "model": str(entry.model),
            "alias": entry.alias or "",
            "sha256": entry.sha256[:12],
            "signature": "valid" if verdict.is_signed else "",
            "sample": sample if verdict.passed else "",
            "verdict": "ok" if verdict.passed else "FAILED",
        }
        rows.append([cells[name] for name in header])
    Console().print(table("model registry", header, rows))
    for verdict in verdicts:
        if verdict.fault is not None:
            print_text(f"{verdict.entry.model}: {verdict.fault}", style="red")
            print_text(f"Hint: {verdict.hint}")
    for folder in unregistered:
        print_text(
            f"Note: {folder} is not registered: `register` was interrupted, or its row is gone; "
            "register that version again, or remove the folder",
            style="yellow",
        )
    bare = [str(verdict.entry.model) for verdict in verdicts if verdict.entry.card_sha256 is None]
    if bare and not recording:
        print_text(
            f"Note: the registry has no card_sha256 for {', '.join(bare)}: a change of the card would "
            "not be noticed; `dbt-onnx verify --record-cards` fills it",
            style="yellow",
        )


def show_recorded(registry: Path, recorded: int, is_new: bool) -> None:  # noqa: FBT001
    """Print how many cards were recorded, and how to load them into the warehouse."""
    cards = "1 card" if recorded == 1 else f"{recorded:,} cards"
    print_text(f"recorded {cards} in {registry}")
    if is_new:
        print_text(
            "next: give the seed `+column_types: {card_sha256: string}`, and load its new column "
            f"with `dbt seed --full-refresh -s {registry.stem}`"
        )
    elif recorded:
        print_text(f"next: dbt seed -s {registry.stem}")


def _show_needs(path: Path, model_bytes: bytes, signature: GraphSignature) -> None:
    try:
        description = describe_model(model_bytes, signature, ModelOptions(), where=path.name)
    except (ConfigError, ContractError, ScoringError) as error:
        print_text(f"cannot be registered as it is: {error.message}", style="yellow")
        print_text(f"Hint: {error.hint}")
        return
    if feature_names_of(signature) is not None:
        print_text(f"the features are named by the metadata {FEATURE_NAMES!r}")
    show_contract(description.contract)
    print_text(f"register it with  dbt-onnx register {path.name} --name NAME --version VERSION")


def _input_row(tensor: Tensor) -> tuple[str, ...]:
    return tensor.name, tensor.dtype or "?", _shape(tensor)


def _output_row(tensor: Tensor) -> tuple[str, ...]:
    dtype = tensor.dtype or tensor.kind
    if tensor.kind == "map_sequence":
        dtype = f"map {tensor.key_dtype} to {tensor.dtype}"
    classes = ", ".join(str(item) for item in (tensor.classes or ())[:20])
    return tensor.name, dtype, _shape(tensor), classes


def _shape(tensor: Tensor) -> str:
    if tensor.kind == "map_sequence":
        return "one map per row"
    if tensor.shape is None:
        return "any"
    return "(" + ", ".join("?" if dim is None else str(dim) for dim in tensor.shape) + ")"


def _filled_rows(output: Output) -> Iterable[tuple[str, ...]]:
    for position, column in enumerate(output.columns):
        if column is None:
            continue
        kind = str(output.kind)
        if output.classes:
            kind = f"probability of {output.classes[position]!r}"
        dtype = f"{output.dtype}[{output.width}]" if output.width else output.dtype
        yield column, dtype, kind, output.name
