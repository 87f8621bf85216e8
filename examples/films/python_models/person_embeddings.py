from dbt_onnx import score


def model(dbt, session):
    dbt.config(materialized="predictions")
    return score(
        dbt,
        session,
        features=dbt.ref("person_vectors"),
        registry=dbt.ref("model_registry"),
        model="person",
        key=["user_id"],
    )
