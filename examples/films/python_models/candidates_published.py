from dbt_onnx import publish


def model(dbt, session):
    dbt.config(materialized="published")
    return publish(
        dbt,
        session,
        predictions=dbt.ref("candidates"),
        key=["user_id"],
        name="candidates",
        # publish the reranker, too: a request scores with the same version as the nightly build
        registry=dbt.ref("model_registry"),
        model="reranker",
    )
