"""`python -m tests.torture [--smoke]`: attack, count, and print what came to harm."""

from __future__ import annotations

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from tests.torture.suite import ATTACKS, attack_with

if TYPE_CHECKING:
    from tests.torture.report import Attack

DOCUMENT = Path(__file__).parents[2] / "docs" / "promises.md"


@click.command()
@click.option("--smoke", is_flag=True, help="Fewer attacks of each kind.")
@click.option("--only", multiple=True, type=click.Choice(list(ATTACKS)), help="Attack with these.")
@click.option("--jobs", default=2, show_default=True, help="Modules that attack side by side.")
@click.option("--record", is_flag=True, help="Write the table into docs/promises.md.")
def main(*, smoke: bool, only: tuple[str, ...], jobs: int, record: bool) -> None:
    """Attack the product; exit with 1 when anything came to harm."""
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    began, attacks = time.monotonic(), []
    # of their own, since some attacks change the process that they are made in
    with ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        futures = {name: pool.submit(attack_with, name, smoke) for name in only or ATTACKS}
        for name, future in futures.items():
            made, seconds = future.result()
            attacks += made
            console.print(f"{name}: {seconds:.0f} s")
    for attack in attacks:
        for harm in attack.harm[:5]:
            console.print(f"[red]{attack.promise}[/red]: {harm}", soft_wrap=True)
    harmed = sum(len(attack.harm) for attack in attacks)
    said = f"{time.monotonic() - began:.0f} s; {harmed or 'nothing'} came to harm"
    console.print(_table(attacks))
    console.print(said)
    if record:
        _record(attacks, said)
    sys.exit(1 if harmed else 0)


def _table(attacks: list[Attack]) -> Table:
    table = Table("promise", "attack", "attacks", "harm")
    for attack in attacks:
        table.add_row(attack.promise, attack.what, f"{attack.attacks:,}", str(len(attack.harm)))
    return table


def _record(attacks: list[Attack], said: str) -> None:
    """Put the table in the place of the one that stands between the marks."""
    rows = [
        f"| {attack.promise} | {attack.what} | {attack.attacks:,} | {len(attack.harm)} |"
        for attack in sorted(attacks, key=lambda attack: attack.promise)
    ]
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition("<!-- table -->\n")
    _, _, after = rest.partition("<!-- end of table -->\n")
    parts = [
        before, "<!-- table -->\n", f"{datetime.now(UTC):%Y-%m-%d}, `make torture`: {said}.\n\n",
        "| promise | attack | attacks | harm |\n|---|---|---|---|\n", "\n".join(rows),
        "\n<!-- end of table -->\n", after,
    ]  # fmt: skip
    DOCUMENT.write_text("".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
