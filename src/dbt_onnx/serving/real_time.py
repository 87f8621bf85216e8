"""Who is new, or cannot wait: scored at once, and kept before it is answered."""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING, Any

from dbt_onnx.errors import NoModelError
from dbt_onnx.runs.answered import REAL_TIME
from dbt_onnx.serving.kinds import as_json
from dbt_onnx.serving.lookup import PREDICTED, REJECTED, Answer
from dbt_onnx.serving.request_log import REQUESTS, RequestLog
from dbt_onnx.serving.scoring import ModelScorer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future
    from datetime import datetime
    from pathlib import Path

    from dbt_onnx.serving.manifest import Manifest, ServedModel


class RealTime:
    """Scores for one publication. Safe to use from several threads."""

    def __init__(self, folder: Path, *, max_seconds: float) -> None:
        self._folder = folder
        self._max_seconds = max_seconds
        self._lock = threading.Lock()
        self._scorer: ModelScorer | None = None
        self._log: RequestLog | None = None

    def score(
        self, manifest: Manifest, key: Sequence[Any], features: Mapping[str, Any], *, now: datetime
    ) -> tuple[Answer, Future[None]]:
        """Score one entity by the version that the publication serves.

        The answer may be given when the future is done: then it is on disk, for the next run to take into the
        ledger. Raises NoModelError where no model was published, FeaturesError for features that the model does
        not read, ScoringError when it fails, ArtifactError when its files were altered.
        """
        if manifest.model is None:
            raise NoModelError(
                f"{manifest.name!r} was published without a model",
                hint="name registry and model in publish(), and publish again",
            )
        scorer = self._scorer_of(manifest.model)
        scored = scorer.score(features)
        request_id = str(uuid.uuid4())
        answer = Answer(
            key=tuple(key),
            status=REJECTED if scored.rejected_reason else PREDICTED,
            outputs=scored.outputs,
            as_of=now,
            scored_at=now,
            fresh_as_of=now,
            age=now - now,
            is_stale=False,
            served_from=REAL_TIME,
            model_name=manifest.model.model_name,
            model_version=manifest.model.model_version,
            run_id=request_id,
            rejected_reason=scored.rejected_reason,
            publication=manifest.id,
        )
        return answer, self._kept(
            {
                "request_id": request_id,
                "scored_at": now.isoformat(),
                "key": [as_json(value) for value in key],
                "key_kinds": {column.name: column.kind for column in manifest.key},
                "features": as_json(dict(scored.features)),
                "feature_types": {c.name: c.kind for c in manifest.model.features},
                "outputs": as_json(dict(scored.outputs)),
                "rejected_reason": scored.rejected_reason,
                "model_name": manifest.model.model_name,
                "model_version": manifest.model.model_version,
                "sha256": manifest.model.sha256,
                "card_sha256": manifest.model.card_sha256,
                "publication": manifest.id,
                **scorer.session,
            }
        )

    def close(self) -> None:
        """Write what is waiting."""
        if self._log is not None:
            self._log.close()

    def _scorer_of(self, model: ServedModel) -> ModelScorer:
        with self._lock:
            if self._scorer is None or self._scorer.model != model:
                self._scorer = ModelScorer(self._folder, model, max_seconds=self._max_seconds)
            return self._scorer

    def _kept(self, document: Mapping[str, Any]) -> Future[None]:
        with self._lock:
            if self._log is None:
                self._log = RequestLog(self._folder / REQUESTS)
        return self._log.append(document)
