"""Maps of the images before and after: one joint fit, so that places can be compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from petl.measures.maps import PlaneMap, neighbour_map, principal_map, trust_neighbours, trustworthiness

POINT_DIGITS = 4  # of a point's place, where the map is two units wide


def map_facts(after: Tensor, before: Tensor | None, seed: int) -> dict[str, Any]:
    """Returns the maps "pca" and "tsne" of features [N, D], with how far the neighbours in each can be trusted."""
    if len(after) < 4:
        return {"why_not": f"{len(after)} images are too few for a map; it takes four"}
    tables = {"before": before, "after": after} if before is not None else {"after": after}
    joint = len({table.shape[1] for table in tables.values()}) == 1  # type: ignore[union-attr]  # those that are there
    facts: dict[str, Any] = {"joint": joint and before is not None, "neighbours": trust_neighbours(len(after))}
    facts["pca"] = _mapped(tables, joint, principal_map)
    tsne = _mapped(tables, joint, lambda x: neighbour_map(x, seed=seed))
    if tsne is None:
        facts["why_no_tsne"] = (
            'scikit-learn draws it: pip install "petl-vision[report]"' if not _has_sklearn() else "too few images"
        )
    return {**facts, "tsne": tsne}


def _has_sklearn() -> bool:
    try:
        import sklearn.manifold  # noqa: F401  # whether it is there
    except ImportError:
        return False
    return True


def _mapped(tables: dict[str, Any], joint: bool, draw: Any) -> dict[str, Any] | None:
    """Returns the points of each table by its name; with ``joint``, one map of all rows."""
    if joint:
        whole: PlaneMap | None = draw(torch.cat([*tables.values()]))
        if whole is None:
            return None
        points = dict(zip(tables, whole.points.split([len(table) for table in tables.values()]), strict=True))
        shares = dict.fromkeys(tables, whole.shares)
    else:
        maps = {when: draw(table) for when, table in tables.items()}
        if any(drawn is None for drawn in maps.values()):
            return None
        points = {when: drawn.points for when, drawn in maps.items()}
        shares = {when: drawn.shares for when, drawn in maps.items()}
    every = torch.cat([*points.values()])
    middle = (every.amin(0) + every.amax(0)) / 2
    scale = float((every - middle).abs().max()) or 1.0
    return {when: _one(tables[when], (points[when] - middle) / scale, shares[when]) for when in tables}


def _one(x: Tensor, points: Tensor, shares: tuple[float, float] | None) -> dict[str, Any]:
    neighbours = trust_neighbours(len(x))
    return {
        "points": [[round(value, POINT_DIGITS) for value in point] for point in points.tolist()],
        "shares": None if shares is None else list(shares),
        "trustworthiness": trustworthiness(x, points, neighbours) if neighbours else None,
    }
