"""Features from external sources: an attached Postgres, Parquet, Iceberg."""

from __future__ import annotations

from typing import TYPE_CHECKING

from catalogs import install_extensions
from sources import MORE_EXTENSIONS, Scored, places

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from catalogs import Lake

ROWS = 1_000


def test_the_same_features_from_anywhere_are_scored_alike(
    lake_in: Callable[[str], Lake], server: str, tmp_path: Path
) -> None:
    lake = lake_in("postgres")
    install_extensions(lake.extension_directory, MORE_EXTENSIONS)
    with lake.connect() as connection:
        for name in MORE_EXTENSIONS:
            connection.load_extension(name)
        relations = places(connection, tmp_path, rows=ROWS, server=server)
        ledgers = []
        for number, (where, relation) in enumerate(relations.items()):
            scored = Scored(connection, "lake", f"scores_{number}", tmp_path)
            said = [scored.run(relation), scored.run(relation), scored.run(relation, changed=1.0)]
            assert [str(summary) for summary in said] == [
                "line/1: scored 1,000 (new 1,000), unchanged 0",
                "line/1: scored 0, unchanged 1,000",
                "line/1: scored 10 (features_changed 10), unchanged 990",
            ], where
            ledgers.append(
                connection.execute(
                    f"select * exclude (scored_at) from lake.main.scores_{number} order by all"
                ).fetchall()
            )
    assert all(ledger == ledgers[0] for ledger in ledgers)
    assert [(row[0], row[2]) for row in ledgers[0] if row[5] == "new"] == [
        (i, float(i) - 0.5) for i in range(ROWS)
    ]
