from dbt_onnx import score


def model(dbt, session):
    dbt.config(materialized="predictions")
    return score(
        dbt,
        session,
        features=dbt.ref("film_vectors"),
        registry=dbt.ref("model_registry"),
        model="film",
        key=["film_id"],
    )
