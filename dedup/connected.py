"""Connected components of pairs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Ints = npt.NDArray[np.int64]


def component_labels(n: int, i: npt.NDArray[np.integer], j: npt.NDArray[np.integer]) -> Ints:
    """(n,): of each node the number of its component, from 0; `i`, `j` (E,) are the ends of undirected edges between
    nodes 0 to n - 1."""
    edges = coo_array((np.ones(len(i), bool), (i, j)), shape=(n, n))
    return np.asarray(connected_components(edges, directed=False)[1], np.int64)
