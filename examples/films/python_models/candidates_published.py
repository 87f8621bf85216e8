from dbt_onnx import publish


def model(dbt, session):
    dbt.config(materialized="published")
    return publish(
        dbt,
        session,
        predictions=dbt.ref("candidates"),
        key=["user_id"],
        name="candidates",
        # with the reranker: a request scores with the version that scored the night
        registry=dbt.ref("model_registry"),
        model="reranker",
    )
