"""Scores entities on request, and writes each answer to the request log before it is given."""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING, Any

from dbt_onnx.errors import NoModelError
from dbt_onnx.serving.answers import logged_answer
from dbt_onnx.serving.kinds import as_json
from dbt_onnx.serving.request_log import REQUESTS, RequestLog
from dbt_onnx.serving.scoring import ModelScorer, batch_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future
    from datetime import datetime
    from pathlib import Path

    from dbt_onnx.serving.lookup import Answer
    from dbt_onnx.serving.manifest import Manifest, ServedModel


class RealTime:
    """The scorer for requests to one name's publications. Safe to use from several threads."""

    def __init__(self, folder: Path, *, max_seconds: float) -> None:
        self._folder = folder
        self._max_seconds = max_seconds
        self._lock = threading.Lock()
        self._scorer: ModelScorer | None = None
        self._log: RequestLog | None = None

    def score(
        self, manifest: Manifest, key: Sequence[Any], features: Mapping[str, Any], *, now: datetime
    ) -> tuple[Answer, Future[None]]:
        """Score one entity with the version that the publication serves.

        The caller may give the answer when the future is done: then it is on disk, and the next run takes it into
        the ledger. Raises the same errors as `score_to_document`.
        """
        kept = self.score_to_document(
            manifest, key, features, now=now, request_id=str(uuid.uuid4())
        )
        return logged_answer(kept, now=now), self._log_answer(kept)

    def score_to_document(
        self,
        manifest: Manifest,
        key: Sequence[Any],
        features: Mapping[str, Any],
        *,
        now: datetime,
        request_id: str,
    ) -> dict[str, Any]:
        """Score one entity, and return the document for the request log.

        Raises NoModelError if no model was published, FeaturesError if the features are not those of the model,
        ScoringError if the model fails, ArtifactError if its files were altered.
        """
        model = served_model(manifest)
        scorer = self._scorer_of(model)
        scored = scorer.score(features)
        return {
            "request_id": request_id,
            "scored_at": now.isoformat(),
            "key": [as_json(value) for value in key],
            "key_kinds": {column.name: column.kind for column in manifest.key},
            "features": as_json(dict(scored.features)),
            "feature_types": {column.name: column.kind for column in model.features},
            "outputs": as_json(dict(scored.outputs)),
            "rejected_reason": scored.rejected_reason,
            "model_name": model.model_name,
            "model_version": model.model_version,
            "sha256": model.sha256,
            "card_sha256": model.card_sha256,
            "publication": manifest.id,
            **scorer.session,
        }

    def close(self) -> None:
        """Write the answers that are waiting, and close the log."""
        if self._log is not None:
            self._log.close()

    def _scorer_of(self, model: ServedModel) -> ModelScorer:
        with self._lock:
            if self._scorer is None or self._scorer.model != model:
                self._scorer = ModelScorer(self._folder, model, max_seconds=self._max_seconds)
            return self._scorer

    def _log_answer(self, document: Mapping[str, Any]) -> Future[None]:
        with self._lock:
            if self._log is None:
                self._log = RequestLog(self._folder / REQUESTS)
        return self._log.append(document)


def check_features(manifest: Manifest, features: Mapping[str, Any]) -> None:
    """Check that a row has the features of a publication's model, without loading the model.

    Raises NoModelError and FeaturesError as `RealTime.score_to_document` does.
    """
    batch_of(features, served_model(manifest))


def served_model(manifest: Manifest) -> ServedModel:
    """Return the model version that a publication serves. Raises NoModelError if it has none."""
    if manifest.model is None:
        raise NoModelError(
            f"{manifest.name!r} was published without a model",
            hint="give registry and model to publish(), and publish again",
        )
    return manifest.model
