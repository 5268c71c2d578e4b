"""Graphs that are made, not read: the benchmarks that need no download. Each is a function of its seed.

* csl: circular skip links (arXiv:1903.02541), which no message passing tells apart
* pattern, cluster: stochastic block models (arXiv:2003.00982, appendix B)
* counting: how often small patterns occur (arXiv:2002.04025)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tinsmith.families.graph.graphs import Array, Graphs, build, ranges, simple

SKIPS = (2, 3, 4, 5, 6, 9, 11, 12, 13, 16)
CSL_NODES, CSL_COPIES, CSL_FOLDS = 41, 15, 5
COUNTED = ("triangle", "cycle4", "cycle5", "cycle6", "tailed_triangle", "chordal_cycle")
_PATTERNS = 100  # different patterns in a set, as in the benchmark

Splits = dict[str, Graphs]


def csl(seed: int = 0, fold: int = 0) -> Splits:
    """150 graphs of 41 nodes in a ring, with a skip link of one of ten lengths from each node: its class.

    15 permuted copies of each. All nodes have four neighbours, so that message passing sees the same from
    each node of each graph: one in ten is all that it can get. The fold is the test split, the next one the
    validation split, each with three graphs of every class.
    """
    rng = np.random.default_rng([seed, 1])
    ring = np.arange(CSL_NODES)
    edges, classes, folds = [], [], []
    for label, skip in enumerate(SKIPS):
        ends = np.stack(
            [np.tile(ring, 2), np.concatenate([(ring + 1) % CSL_NODES, (ring + skip) % CSL_NODES])], 1
        )
        for copy in range(CSL_COPIES):
            edges.append(simple(CSL_NODES, rng.permutation(CSL_NODES)[ends]))
            classes.append(label)
            folds.append(copy % CSL_FOLDS)
    graphs = build(edges, [CSL_NODES] * len(edges), np.array(classes, np.int64))
    at = np.array(folds)
    parts = {"test": at == fold, "valid": at == (fold + 1) % CSL_FOLDS}
    parts["train"] = ~(parts["test"] | parts["valid"])
    return {name: graphs.take(np.flatnonzero(parts[name])) for name in ("train", "valid", "test")}


def pattern(count: int = 10_000, seed: int = 0) -> Splits:
    """Which nodes belong to a pattern that was put into a graph of five communities?

    Communities of 5 to 34 nodes, joined inside with 0.5 and across with 0.35; the pattern, of 5 to 34 nodes,
    is joined inside and to all others with 0.5. Each node has one of three tags, those of a pattern drawn
    once for it. Splits of ``count``, a fifth and a fifth of it; each has its own graphs around the same
    patterns.
    """
    rng = np.random.default_rng([seed, 2])
    sizes = rng.integers(5, 35, _PATTERNS)
    patterns = [(_random_edges(rng, np.full((n, n), 0.5)), rng.integers(0, 3, n)) for n in sizes]
    return {
        split: _sbm([_with_pattern(rng, *patterns[i % _PATTERNS]) for i in range(number)])
        for split, number in _split_sizes(count, 5)
    }


def cluster(count: int = 10_000, seed: int = 0) -> Splits:
    """Which of six communities does each node belong to, if one node of each says so?

    Communities of 5 to 34 nodes, joined inside with 0.55 and across with 0.25. One node of community r has
    the tag r + 1, all others 0. Splits of ``count``, a tenth and a tenth of it.
    """
    rng = np.random.default_rng([seed, 3])
    return {
        split: _sbm([_communities(rng) for _ in range(number)]) for split, number in _split_sizes(count, 10)
    }


def counting(count: int = 1500, seed: int = 0) -> Splits:
    """How often do six patterns occur in a random graph: cycles of 3 to 6, tailed triangle, chordal cycle?

    Graphs of 10 to 30 nodes, half of them with edges drawn each by itself (four neighbours on average), half
    regular (3 or 4 neighbours each). Subgraphs are counted, induced or not. Splits of ``count``, 2/3 and 5/3.
    """
    rng = np.random.default_rng([seed, 4])
    out = {}
    for split, number in (
        ("train", count),
        ("valid", max(1, 2 * count // 3)),
        ("test", max(1, 5 * count // 3)),
    ):
        nodes = rng.integers(5, 16, number) * 2
        edges = [simple(n, _regular(rng, n) if i % 2 else _even(rng, n)) for i, n in enumerate(nodes)]
        graphs = build(edges, nodes.tolist(), np.zeros((number, len(COUNTED)), np.float32))
        graphs.y[:] = count_patterns(graphs)
        out[split] = graphs
    return out


def _split_sizes(count: int, share: int) -> list[tuple[str, int]]:
    return [("train", count), ("valid", max(1, count // share)), ("test", max(1, count // share))]


# ---- block models -----------------------------------------------------------------------------------

Tagged = tuple[Array, Array, Array]  # adjacency (upper triangle), tags and labels of the nodes


def _random_edges(rng: np.random.Generator, probability: Array) -> NDArray[np.bool_]:
    """Each edge by itself: the upper triangle of an adjacency."""
    drawn: NDArray[np.bool_] = np.triu(rng.random(probability.shape) < probability, 1)
    return drawn


def _with_pattern(rng: np.random.Generator, inner: Array, tags: Array) -> Tagged:
    community = np.repeat(np.arange(5), rng.integers(5, 35, 5))
    rest, size = len(community), len(tags)
    chance = np.full((rest + size, rest + size), 0.5)
    chance[:rest, :rest] = np.where(community[:, None] == community, 0.5, 0.35)
    edges = _random_edges(rng, chance)
    edges[rest:, rest:] = inner
    label = np.repeat([0, 1], [rest, size])
    return _shuffled(rng, edges, np.concatenate([rng.integers(0, 3, rest), tags]), label)


def _communities(rng: np.random.Generator) -> Tagged:
    community = np.repeat(np.arange(6), rng.integers(5, 35, 6))
    tags = np.zeros(len(community), np.int64)
    for r in range(6):
        tags[rng.choice(np.flatnonzero(community == r))] = r + 1
    edges = _random_edges(rng, np.where(community[:, None] == community, 0.55, 0.25))
    return _shuffled(rng, edges, tags, community)


def _shuffled(rng: np.random.Generator, edges: Array, tags: Array, label: Array) -> Tagged:
    order = rng.permutation(len(tags))
    full = edges | edges.T
    return full[order][:, order], tags[order], label[order]


def _sbm(parts: Sequence[Tagged]) -> Graphs:
    edges = [
        (np.stack(np.nonzero(adjacency)).astype(np.int32), np.zeros((int(adjacency.sum()), 0), np.int16))
        for adjacency, _, _ in parts
    ]
    tags = np.concatenate([tags for _, tags, _ in parts]).astype(np.int16)
    labels = np.concatenate([label for _, _, label in parts]).astype(np.int64)
    return build(edges, [len(label) for _, _, label in parts], labels, tags[:, None])


# ---- counting ---------------------------------------------------------------------------------------


def _even(rng: np.random.Generator, n: int) -> Array:
    return np.stack(np.nonzero(_random_edges(rng, np.full((n, n), 4 / (n - 1)))), 1)


def _regular(rng: np.random.Generator, n: int) -> Array:
    """Pairs of a random regular graph: stubs are joined at random until no loop or double edge is left."""
    degree = int(rng.integers(3, 5))
    while True:
        stubs = rng.permutation(np.repeat(np.arange(n), degree)).reshape(-1, 2)
        key = stubs.min(1) * n + stubs.max(1)
        if (stubs[:, 0] != stubs[:, 1]).all() and len(np.unique(key)) == len(key):
            return stubs


def count_patterns(graphs: Graphs) -> NDArray[np.float32]:
    """How often each of ``COUNTED`` occurs in each graph: [G, 6].

    With t the triangles of a node and c the common neighbours of two: tailed triangles ``sum_i t_i (d_i -
    2)``, chordal cycles ``sum over edges of c (c - 1) / 2``. Cycles are followed to their ends.
    """
    out = np.zeros((len(graphs), len(COUNTED)), np.float32)
    for column, length in enumerate((3, 4, 5, 6)):
        out[:, column] = count_cycles(graphs, length)
    for i in range(len(graphs)):
        n, first, number = (int(a[i]) for a in (graphs.num_nodes, graphs.edge_start, graphs.num_edges))
        adjacency = np.zeros((n, n))
        adjacency[tuple(graphs.ends[:, first : first + number])] = 1
        common = adjacency @ adjacency
        triangles = (common * adjacency).sum(1) / 2
        out[i, 4] = (triangles * (adjacency.sum(1) - 2)).sum()
        out[i, 5] = (adjacency * common * (common - 1)).sum() / 4
    return out


def count_cycles(graphs: Graphs, length: int, block: int = 256) -> NDArray[np.int64]:
    """The number of simple cycles of ``length`` in each graph [G].

    All simple paths that start at the smallest node of their cycle, grown an edge at a time for ``block``
    graphs at once; a path whose last node is tied to its first closes a cycle, which is found once in each
    direction.
    """
    found = [
        _cycles_of(graphs.take(np.arange(first, min(first + block, len(graphs)))), length)
        for first in range(0, len(graphs), block)
    ]
    return np.concatenate(found)


def _cycles_of(graphs: Graphs, length: int) -> NDArray[np.int64]:
    shift = np.repeat(graphs.node_start, graphs.num_edges)
    source, target = (graphs.ends + shift).astype(np.int64)
    order = np.argsort(source, kind="stable")
    source, target = source[order], target[order]
    total = int(graphs.num_nodes.sum())
    degree = np.bincount(source, minlength=total)
    start = np.cumsum(degree) - degree
    keys = source * total + target  # sorted by source; made fully sorted for the look-up
    keys.sort()
    paths = np.arange(total)[:, None]
    for _ in range(length - 1):
        last = paths[:, -1]
        following = target[ranges(start[last], degree[last])]
        grown = np.column_stack([np.repeat(paths, degree[last], 0), following])
        fresh = (grown[:, -1] > grown[:, 0]) & (grown[:, 1:-1] != following[:, None]).all(1)
        paths = grown[fresh]
    wanted = paths[:, -1] * total + paths[:, 0]
    at = np.searchsorted(keys, wanted)
    closed = paths[(at < len(keys)) & (keys[np.minimum(at, len(keys) - 1)] == wanted)]
    owner = np.searchsorted(graphs.node_start, closed[:, 0], side="right") - 1
    return np.bincount(owner, minlength=len(graphs)) // 2
