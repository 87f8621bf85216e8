"""`python -m tests.torture [--smoke]`: attack the product, count the attacks, and print those that did harm."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from tests.torture.suite import ATTACKS, attack_with

if TYPE_CHECKING:
    from tests.torture.report import Attack

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "promises.md"
RESULTS = Path(__file__).with_name("results.json")
Record = dict[str, dict[str, Any]]
"""Module -> the date and commit of its last run, how long it took, and its attacks."""


@click.command()
@click.option("--smoke", is_flag=True, help="Fewer attacks of each kind.")
@click.option("--only", multiple=True, type=click.Choice(list(ATTACKS)), help="Attack with these.")
@click.option("--jobs", default=2, show_default=True, help="Modules that attack side by side.")
@click.option("--record", is_flag=True, help="Write what each gave into docs/promises.md.")
def main(*, smoke: bool, only: tuple[str, ...], jobs: int, record: bool) -> None:
    """Attack the product; exit with 1 if an attack did harm or could not be made."""
    if smoke and record:
        raise click.UsageError("what is recorded is the whole of a module, not its short form")
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    began, attacks, failed = time.monotonic(), [], 0
    # one new process per module, since some attacks change the process that makes them
    with ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        futures = {pool.submit(attack_with, name, smoke): name for name in only or ATTACKS}
        for future in as_completed(futures):
            name = futures[future]
            if (error := future.exception()) is not None:
                failed += 1
                console.print(f"[red]{name} could not attack[/red]: {error}", soft_wrap=True)
                continue
            made, seconds = future.result()
            attacks += made
            console.print(f"{name}: {seconds:.0f} s")
            for attack in made:
                for harm in attack.harm[:5]:
                    console.print(f"[red]{attack.promise}[/red]: {harm}", soft_wrap=True)
            if record:
                # record each module as soon as it ends, since the command may be stopped before the last one
                write_document(keep(name, made, seconds))
    harmed = sum(len(attack.harm) for attack in attacks)
    console.print(_table(attacks))
    console.print(f"{time.monotonic() - began:.0f} s; {harmed or 'nothing'} came to harm")
    sys.exit(1 if harmed or failed else 0)


def _table(attacks: list[Attack]) -> Table:
    table = Table("promise", "attack", "attacks", "harm")
    for attack in attacks:
        table.add_row(attack.promise, attack.what, f"{attack.attacks:,}", str(len(attack.harm)))
    return table


def recorded() -> Record:
    """Return the record of each module; empty if nothing has been recorded yet."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}  # type: ignore[no-any-return]


def keep(name: str, made: list[Attack], seconds: float) -> Record:
    """Replace a module's entry in the recorded results. Returns the whole record."""
    found = recorded()
    found[name] = {
        "measured_at": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": _commit(),
        "seconds": round(seconds),
        "attacks": [asdict(attack) for attack in made],
    }
    ordered = {each: found[each] for each in ATTACKS if each in found}
    RESULTS.write_text(json.dumps(ordered, indent=1) + "\n")
    return ordered


def _commit() -> str:
    """Return the commit under attack, followed by `+` if files in src or macros differ from it."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run(
        [*git, "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    changed = subprocess.run(
        [*git, "status", "--porcelain", "src", "macros"], capture_output=True, text=True, check=True
    ).stdout
    return f"{commit}+" if changed else commit


def write_document(record: Record) -> None:
    """Write the record as a table between the two markers in docs/promises.md."""
    rows = [
        f"| {attack['promise']} | {attack['what']} | {attack['attacks']:,} | {len(attack['harm'])} "
        f"| {ran['measured_at']}, {ran['commit']} |"
        for ran in record.values()
        for attack in ran["attacks"]
    ]
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition("<!-- table -->\n")
    _, _, after = rest.partition("<!-- end of table -->\n")
    missing = [name for name in ATTACKS if name not in record]
    of_all = f" Not run in full yet: {', '.join(missing)}." if missing else ""
    parts = [
        before, "<!-- table -->\n",
        f"{sum(ran['seconds'] for ran in record.values()):,} s in all, two modules side by side.{of_all}\n\n",
        "| promise | attack | attacks | harm | when, on which commit |\n|---|---|---|---|---|\n",
        "\n".join(sorted(rows)), "\n<!-- end of table -->\n", after,
    ]  # fmt: skip
    DOCUMENT.write_text("".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
