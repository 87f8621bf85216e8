"""Whether rows of the warehouse were scored with a version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_onnx.errors import NoWarehouseError, RegistryError

if TYPE_CHECKING:
    from dbt_onnx.artifacts.registry import ModelVersion
    from dbt_onnx.project.dbt_project import DbtProject


def refuse_if_scored(project: DbtProject, model: ModelVersion) -> None:
    """Raise RegistryError if a run in the target's warehouse has written rows of the version.

    A folder without a dbt project and a database file that does not exist yet have no such rows. Raises
    ConfigError or WarehouseError if project or warehouse cannot be read.
    """
    if not (project.root / "dbt_project.yml").is_file():
        return
    try:
        with project.warehouse() as warehouse:
            for scoring_model in project.scoring_models():
                for run in warehouse.runs(scoring_model.table):
                    rows = (run.rows_scored or 0) + (run.rows_rejected or 0)
                    if run.status == "success" and run.model == model and rows:
                        raise RegistryError(
                            f"version '{model}' cannot be replaced: run {run.run_id} of "
                            f"{scoring_model.selector} has written {rows:,} rows with it",
                            hint="register the file as a new version: the ledger says which version "
                            "made a prediction, and that must stay true",
                        )
    except NoWarehouseError:
        return
