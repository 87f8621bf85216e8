"""Shapley values of the scores of a tree ensemble, computed by shap from the nodes in the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dbt_onnx.errors import ArtifactError, ConfigError
from dbt_onnx.explaining.splitting import refused

if TYPE_CHECKING:
    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.explaining.splitting import Split
    from dbt_onnx.kernel.tensors import Array

MAX_DEPTH = 200
MAX_VALUES = 2**27
"""The largest number of leaf values in shap's arrays, in which every tree is as long as the largest one."""
_LEAF, _LEQ, _LT, _GT = "LEAF", "BRANCH_LEQ", "BRANCH_LT", "BRANCH_GT"


class TreeContributions:
    """Computes the contributions of the columns that a tree ensemble reads: interventional Shapley values of
    its scores, compared with the rows of `sample`.

    Raises ConfigError if shap is not installed or cannot represent the trees, ArtifactError if the nodes
    are not trees.
    """

    def __init__(self, split: Split, sample: Array, artifact: Artifact) -> None:
        try:
            import shap
        except ImportError as error:
            raise ConfigError(
                f"explaining trees needs the package shap, which cannot be imported: {error}",
                hint="pip install 'dbt-onnx[explain]'",
            ) from error
        self._explainer = shap.TreeExplainer(
            {
                "trees": _Ensemble(split, sample, artifact).trees(),
                "input_dtype": np.float64,
                "internal_dtype": np.float64,
            },
            data=sample.astype(np.float64),
            feature_perturbation="interventional",
            model_output="raw",
        )

    def __call__(self, matrix: Array) -> Array:
        """Return the contributions for the rows of a matrix, float64 (rows, columns, scores)."""
        # not shap's check, which compares with its own copy of the trees: ours compares with onnxruntime
        found = self._explainer.shap_values(matrix.astype(np.float64), check_additivity=False)
        return np.asarray(found).reshape(*matrix.shape, -1)


class _Ensemble:
    """The nodes of a tree ensemble, checked: shap's native code reads wherever a node points."""

    def __init__(self, split: Split, sample: Array, artifact: Artifact) -> None:
        self._given = split.attributes
        self._artifact = artifact
        self._sample = sample
        self._is_classifier = split.operator == "TreeEnsembleClassifier"
        self._size = len(self._given.get("nodes_treeids", ()))
        self._tree_ids = self._column("nodes_treeids")
        ids = zip(self._tree_ids.tolist(), self._column("nodes_nodeids").tolist(), strict=True)
        self._places = {pair: place for place, pair in enumerate(ids)}
        if len(self._places) != self._size or not self._size:
            raise self._malformed(f"{self._size:,} nodes have {len(self._places):,} different ids")
        modes = self._column("nodes_modes", str)
        if others := set(modes.tolist()) - {_LEAF, _LEQ, _LT, _GT}:
            raise refused(artifact, f"its trees have nodes of the kind {', '.join(sorted(others))}")
        self._is_leaf = modes == _LEAF
        self._is_strict = modes == _LT
        self._is_reversed = modes == _GT
        self._children = np.stack(
            [self._children_in(f"nodes_{side}nodeids") for side in ("true", "false")], axis=1
        )

    def trees(self) -> list[dict[str, Array]]:
        """Return the trees in the form that shap reads, the root of each first."""
        order, counts = self._order()
        values = self._values()
        if len(counts) * int(counts.max()) * values.shape[1] > MAX_VALUES:
            raise refused(self._artifact, "its trees are too large for shap")
        features = np.where(self._is_leaf, 0, self._column("nodes_featureids"))
        if features.min() < 0 or features.max() >= self._sample.shape[1]:
            raise self._malformed(
                f"a node reads a column beyond the {self._sample.shape[1]} columns"
            )
        thresholds = self._numbers("nodes_values", self._size).astype(self._sample.dtype)
        # x < t is x <= the next lower number
        lower = np.nextafter(thresholds, thresholds.dtype.type(-np.inf))
        thresholds = np.where(self._is_strict, lower, thresholds).astype(np.float64)
        true, false = self._children.T
        tracks = self._column("nodes_missing_value_tracks_true", default=0) == 1
        of_missing = np.where(tracks, true, false)
        # x > t is the opposite of x <= t, but for NaN
        left = np.where(self._is_reversed, false, true)
        right = np.where(self._is_reversed, true, false)
        # places of nodes within their own tree
        within = np.empty(self._size + 1, dtype=np.int64)
        within[order] = np.concatenate([np.arange(count) for count in counts])
        within[-1] = -1
        return [
            {
                "children_left": within[left[nodes]],
                "children_right": within[right[nodes]],
                "children_default": within[of_missing[nodes]],
                "features": features[nodes],
                "thresholds": thresholds[nodes],
                "values": values[nodes],
                "node_sample_weight": np.ones(len(nodes)),
            }
            for nodes in np.split(order, np.cumsum(counts)[:-1])
        ]

    def _order(self) -> tuple[Array, Array]:
        """Return the places of all nodes, tree by tree and level by level, and the number of nodes of each tree."""
        linked = self._children[~self._is_leaf].ravel()
        is_root = np.ones(self._size, dtype=bool)
        is_root[linked] = False
        roots = np.flatnonzero(is_root)
        n_trees = len(np.unique(self._tree_ids))
        if (
            len(np.unique(linked)) != len(linked)
            or len(np.unique(self._tree_ids[roots])) != n_trees
        ):
            raise self._malformed("a node has two parents, or a tree has no root")
        if len(roots) != n_trees:
            raise self._malformed(f"{n_trees:,} trees have {len(roots):,} roots")
        levels = [roots]
        while len(branches := levels[-1][~self._is_leaf[levels[-1]]]):
            levels.append(self._children[branches].ravel())
            if len(levels) > MAX_DEPTH:
                raise refused(self._artifact, f"a tree has more than {MAX_DEPTH} levels")
        order = np.concatenate(levels)
        if len(order) != self._size:
            raise self._malformed(f"{self._size - len(order):,} nodes form a circle")
        order = order[np.argsort(self._tree_ids[order], kind="stable")]
        return order, np.unique(self._tree_ids, return_counts=True)[1]

    def _values(self) -> Array:
        """Return the values of all nodes, float64 (nodes, scores)."""
        prefix = "class" if self._is_classifier else "target"
        ids, trees, nodes = (
            np.asarray(self._given.get(f"{prefix}_{name}", ()), dtype=np.int64)
            for name in ("ids", "treeids", "nodeids")
        )
        weights = self._numbers(f"{prefix}_weights", len(ids))
        if not len(ids) == len(trees) == len(nodes):
            raise self._malformed("the leaves and their values differ in number")
        places = self._found(trees, nodes, "a value")
        if self._is_classifier:
            labels = self._given.get("classlabels_strings") or self._given.get("classlabels_int64s")
            count = len(labels or ())
            if count == 2 and len(np.unique(ids)) == 1:
                # of two classes, only the second one has a score, whatever its number
                ids, count = np.zeros_like(ids), 1
        else:
            count = self._given.get("n_targets", 1)
            function = self._given.get("aggregate_function", "SUM")
            if function not in {"SUM", "AVERAGE"}:
                raise refused(self._artifact, f"its trees are combined by {function}")
            if function == "AVERAGE":
                weights = weights / len(np.unique(self._tree_ids))
        if not len(ids) or ids.min() < 0 or ids.max() >= count or self._size * count > MAX_VALUES:
            raise self._malformed(f"the leaves do not have values for {count:,} score(s)")
        values = np.zeros((self._size, count))
        np.add.at(values, (places, ids), weights)
        return values

    def _children_in(self, name: str) -> Array:
        """Return the places of the children of all nodes on one side; -1 for a leaf, to index the last place."""
        children = np.full(self._size, -1)
        branches = ~self._is_leaf
        ids = self._column(name)
        children[branches] = self._found(self._tree_ids[branches], ids[branches], name)
        return children

    def _found(self, trees: Array, nodes: Array, what: str) -> Array:
        pairs = zip(trees.tolist(), nodes.tolist(), strict=True)
        places = np.array([self._places.get(pair, -1) for pair in pairs], dtype=np.int64)
        if (places < 0).any():
            raise self._malformed(f"{what} points to a node that does not exist")
        return places

    def _column(self, name: str, kind: Any = np.int64, *, default: Any = None) -> Array:
        """Return an attribute that has one value for each node."""
        found = np.asarray(self._given.get(name, ()), dtype=kind)
        if not found.size and default is not None:
            return np.full(self._size, default)
        if found.shape != (self._size,):
            raise self._malformed(f"{name} has {found.size:,} values for {self._size:,} nodes")
        return found

    def _numbers(self, name: str, count: int) -> Array:
        tensor = self._given.get(f"{name}_as_tensor")
        found = np.asarray(self._given.get(name, ()) if tensor is None else tensor)
        if found.shape != (count,):
            raise self._malformed(f"{name} has {found.size:,} values, not {count:,}")
        return found.astype(np.float64)

    def _malformed(self, what: str) -> ArtifactError:
        return ArtifactError(
            f"the trees of {self._artifact.model} are malformed: {what}",
            hint="check where the file comes from, and export the model again",
        )
