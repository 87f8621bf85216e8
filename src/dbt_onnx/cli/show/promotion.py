"""What `promote` and `rollback` print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from dbt_onnx.cli.show.console import open_console, print_text, table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dbt_onnx.artifacts.registry import RegistryEntry
    from dbt_onnx.promotion.gate import Check
    from dbt_onnx.promotion.promote import Change

_VERDICTS = {"passed": "passed", "failed": "FAILED", "not checked": "not checked"}


def show_gate(version: str, champion: RegistryEntry | None, checks: Sequence[Check]) -> None:
    """Print each check with its figure, limit and verdict."""
    against = f"compared with {champion.model}" if champion else "no champion yet"
    rows = [(item.name, item.figure, item.limit, _VERDICTS[item.verdict]) for item in checks]
    header = ("check", "figure", "limit", "verdict")
    open_console().print(table(f"gate of {version}, {against}", header, rows))


def show_refusal(
    version: str, failed: Sequence[Check], registry: Path, *, overridden: bool
) -> None:
    """Print why a version is not promoted, on standard error."""
    console = Console(stderr=True)
    for check in failed:
        print_text(f"refused: {check.fault}", style="red", console=console)
        print_text(f"Hint: {check.hint}", console=console)
    kept = f"{version} is not promoted; {registry} is unchanged"
    print_text(kept, style="bold red", console=console)
    if overridden:
        final = ", ".join(check.name for check in failed if check.final)
        text = f"--override does not pass this check: {final}: every run would refuse the version"
        print_text(text, console=console)


def show_change(change: Change, registry: Path, *, overridden: Sequence[Check]) -> None:
    """Print the new champion and the next step. `registry` is the seed's path as the user gave it."""
    file = registry.parent / change.promotions.name
    promotion = change.promotion
    name = promotion.model_name
    for check in overridden:
        print_text(f"overridden: {check.fault}", style="yellow")
    if change.found is not None:
        print_text(
            f"{name}/{change.found.model_version} was champion, but {file} had "
            f"{change.found.replaced_version}: {change.found.reason}; recorded as found",
            style="yellow",
        )
    print_text(f"{name}/{promotion.model_version}", style="bold green", end="")
    replaced = ""
    if promotion.replaced_version:
        role = f"is {change.replaced_alias}" if change.replaced_alias else "has no alias"
        replaced = f"; {name}/{promotion.replaced_version} was, and {role} now"
    print_text(f" is champion{replaced}")
    print_text(f"recorded in {file}")
    if promotion.gate == "not_compared":
        print_text(
            "Note: there was no champion to compare with; the gate is recorded as not_compared"
        )
    if change.first:
        print_text(
            "Hint: the file is a new seed; give it text columns with `+column_types`, like the "
            "registry: version 1.10 is not 1.1"
        )
    if promotion.action == "rollback":
        print_text("served after the next build of the views; unchanged rows are not scored again")
    else:
        print_text(f"next: dbt build -s {registry.stem}+ {file.stem}")
