"""`python -m tests.torture [--smoke]`: attack, count, and print what came to harm."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from tests.torture import arrival, crashes, dbt_runs, names, nulls, wrong_bytes

ATTACKS: dict[str, tuple[Any, dict[str, int], dict[str, int]]] = {
    "crashes": (crashes, {"kills": 1_000, "every": 1}, {"kills": 20, "every": 12}),
    "dbt_runs": (
        dbt_runs,
        {"kills": 200, "hooks": 50, "runs": 100, "pairs": 50},
        {"kills": 3, "hooks": 1, "runs": 3, "pairs": 2},
    ),
    "names": (names, {"every": 1}, {"every": 13}),
    "wrong_bytes": (wrong_bytes, {"flips": 10_000, "runs": 200}, {"flips": 500, "runs": 20}),
    "nulls": (nulls, {"rows": 1_000_000}, {"rows": 50_000}),
    "arrival": (arrival, {"schedules": 200}, {"schedules": 6}),
}
"""What attacks, how often, and how often in the short version."""


@click.command()
@click.option("--smoke", is_flag=True, help="Fewer attacks of each kind.")
@click.option("--only", multiple=True, type=click.Choice(list(ATTACKS)), help="Attack with these.")
def main(*, smoke: bool, only: tuple[str, ...]) -> None:
    """Attack the product; exit with 1 when anything came to harm."""
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    table = Table("promise", "attack", "attacks", "harm")
    began, harmed = time.monotonic(), 0
    for name in only or ATTACKS:
        module, full, short = ATTACKS[name]
        with tempfile.TemporaryDirectory() as folder:
            for attack in module.measure(Path(folder), **(short if smoke else full)):
                table.add_row(
                    attack.promise, attack.what, f"{attack.attacks:,}", str(len(attack.harm))
                )
                harmed += len(attack.harm)
                for harm in attack.harm[:5]:
                    console.print(f"[red]{attack.promise}[/red]: {harm}", soft_wrap=True)
    console.print(table)
    console.print(f"{time.monotonic() - began:.0f} s; {harmed or 'nothing'} came to harm")
    sys.exit(1 if harmed else 0)


if __name__ == "__main__":
    main()
