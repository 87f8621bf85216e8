from dbt_onnx import score


def model(dbt, session):
    dbt.config(materialized="predictions")
    return score(
        dbt,
        session,
        features=dbt.ref("candidate_features"),
        registry=dbt.ref("model_registry"),
        model="reranker",
        key=["user_id", "film_id"],
    )
