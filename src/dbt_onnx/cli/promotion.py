"""`dbt-onnx promote` and `rollback`: change which version serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dbt_onnx.cli import options

if TYPE_CHECKING:
    from pathlib import Path

    from dbt_onnx.project.dbt_project import DbtProject
    from dbt_onnx.promotion.promotions_file import GateResult

_SHARE = click.FloatRange(0, 1)


@options.main.command()
@click.argument("version", metavar="NAME/VERSION")
@click.option(
    "--min-rank-correlation",
    type=click.FloatRange(-1, 1),
    default=0.8,
    help="Smallest Spearman correlation of a numeric output with the champion's.",
)
@click.option(
    "--max-changed-decisions",
    type=_SHARE,
    default=0.1,
    help="Largest share of rows with another label, or a probability on the other side of the threshold.",
)
@click.option(
    "--max-rejected",
    type=_SHARE,
    default=0.1,
    help="Largest share of rows that the version rejects.",
)
@click.option(
    "--threshold", type=_SHARE, default=0.5, help="Probability at which the decision changes."
)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=100_000,
    help="Most rows to compare, chosen by the hash of their key.",
)
@click.option("--override", metavar="WHY", help="Promote even if a check fails; WHY is recorded.")
@options.as_json
@options.project
@options.registry
def promote(
    version: str,
    override: str | None,
    as_json: bool,  # noqa: FBT001
    project: DbtProject,
    registry: Path,
    **limits: Any,
) -> None:
    """Make NAME/VERSION the champion, if it passes the gate.

    The gate checks the file, the card's sample, the contract against the current features, the
    version's predictions for them, and how far these differ from the champion's.
    """
    from dbt_onnx.cli.show.documents import print_document, promotion_document
    from dbt_onnx.cli.show.promotion import show_change, show_gate, show_refusal
    from dbt_onnx.project.gate_check import run_gate
    from dbt_onnx.promotion.gate import Limits
    from dbt_onnx.promotion.promote import (
        clean_reason,
        override_reason,
        promote_version,
        read_promotion,
    )

    why = None if override is None else clean_reason(override, option="--override")
    state, entry = read_promotion(project.root / registry, version)
    champion = state.champion
    checks = run_gate(
        project, entry, champion, artifacts=project.root / "artifacts", limits=Limits(**limits)
    )
    if not as_json:
        show_gate(version, champion, checks)
    failed = [check for check in checks if check.verdict == "failed"]
    if any(check.final or why is None for check in failed):
        if as_json:
            print_document(promotion_document(version, champion, checks, None))
        show_refusal(version, failed, registry, overridden=why is not None)
        raise SystemExit(options.EXIT_FAILED)
    gate: GateResult = "overridden" if failed else "passed" if champion else "not_compared"
    change = promote_version(
        state, entry, action="promote", gate=gate, reason=override_reason(why or "", failed)
    )
    if as_json:
        print_document(promotion_document(version, champion, checks, change))
    else:
        show_change(change, registry, overridden=failed)


@options.main.command()
@click.argument("name")
@click.option(
    "--to", metavar="VERSION", help="The version to return to; without it, the previous champion."
)
@click.option("--reason", metavar="WHY", help="Recorded with the rollback.")
@options.project_dir
@options.registry
def rollback(
    name: str, to: str | None, reason: str | None, project_dir: Path, registry: Path
) -> None:
    """Make the previous champion of NAME champion again. Nothing is scored; no warehouse is needed."""
    from dbt_onnx.cli.show.promotion import show_change
    from dbt_onnx.promotion.promote import clean_reason, roll_back

    change = roll_back(
        project_dir / registry,
        name,
        to=to,
        artifacts=project_dir / "artifacts",
        reason="" if reason is None else clean_reason(reason, option="--reason"),
    )
    show_change(change, registry, overridden=[])
