"""Training steps a second, beside PyTorch Geometric's own GPS example.

    python benchmarks/graph_speed.py [--peer PATH/TO/pytorch_geometric] [--threads 2]

Graphs of the size of molecules, batches of 32, forward, backward and AdamW, fp32. ``same mathematics`` is our
gps with the example's size, encodings (RWSE 20), dropout of the attention, batch norms and random batches;
``our recipe`` has no such dropout, but layer norms and batches of like sizes. The model of the example
(``examples/graph_gps.py`` of a checkout of PyTorch Geometric, which must be installed) is built from its own
class; without ``--peer`` that row is left out. All rows take turns; each figure is the median over rounds.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from molecule_like import molecule_like
from shown import show

from tinsmith.compose import compose
from tinsmith.engine.contract import Context
from tinsmith.engine.data import Loader
from tinsmith.engine.optim import get_optimizer, stepper
from tinsmith.families.graph.batches import GraphDataset, Layout, pair_dim
from tinsmith.families.graph.batches import statistics as figures_of
from tinsmith.families.graph.data import figures_of as target_figures
from tinsmith.families.graph.encode import encode, lap_dim, node_dim
from tinsmith.families.graph.model import GraphSpec, build_model
from tinsmith.families.graph.task import GraphTask

GPS = ["model=gps", "model.num_layers=10", "model.dim=64", "model.num_heads=4"]
ROWS = {
    "gps, same mathematics": [*GPS, "pe=rwse", "model.norm=batch", "model.attn_dropout=0.5"],
    "gps, our recipe": [*GPS, "pe=rwse"],
    "gps, our recipe, default encodings": [*GPS, "pe=default"],
    "gps of preset=standard, six layers": ["preset=standard", "pe=default"],
    "graph_transformer, default encodings": ["model=graph_transformer", "model.num_layers=10", "pe=default"],
    "gine": ["model=gine", "model.num_layers=10", "pe=rwse"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peer", type=Path, help="a checkout of pytorch_geometric")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--graphs", type=int, default=960)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    graphs = molecule_like(args.graphs)
    epochs: dict[str, Callable[[], None]] = {}
    sizes = {}
    for name, words in ROWS.items():
        epochs[name], sizes[name] = ours(graphs, words, same_size="same mathematics" not in name)
    if args.peer is not None and find_spec("torch_geometric"):
        epochs["PyTorch Geometric's example"], sizes["PyTorch Geometric's example"] = peer(graphs, args.peer)
    else:
        print(
            "the row of PyTorch Geometric's example is left out: --peer is not given, or it is not installed"
        )
    times: dict[str, list[float]] = {name: [] for name in epochs}
    for epoch in epochs.values():
        epoch()
    for _ in range(args.rounds):
        for name, epoch in epochs.items():
            start = time.perf_counter()
            epoch()
            times[name].append(time.perf_counter() - start)
    steps = -(-args.graphs // 32)
    rate = {name: steps / statistics.median(values) for name, values in times.items()}
    base = rate.get("PyTorch Geometric's example")
    rows = [
        {"model": name, "parameters": sizes[name], "steps/s": round(rate[name], 2)}
        | ({"times the example": round(rate[name] / base, 2)} if base else {})
        for name in epochs
    ]
    bars = {}
    if base:
        bars = {
            "same mathematics, times the example": (rate["gps, same mathematics"] / base, ">=", 1.5),
            "our recipe, times the example": (rate["gps, our recipe"] / base, ">=", 2.0),
        }
    return show("graph speed", rows, bars)


def ours(graphs: Any, words: list[str], same_size: bool) -> tuple[Callable[[], None], int]:
    """An epoch of training of our model, and its parameters."""
    cfg = compose("graph", words).cfg
    layout = Layout(cfg.pe, (3,), pairs=cfg.model.name in ("gps", "graph_transformer"))
    dataset = GraphDataset(graphs, encode(graphs, cfg.pe), layout)
    mean, deviation = target_figures(graphs.y)
    sizes = {"node_pe_dim": node_dim(cfg.pe), "lap_dim": lap_dim(cfg.pe), "pair_dim": pair_dim(layout)}
    if cfg.pe.rrwp.pair is False and cfg.pe.spd.pair is False:
        sizes["pair_dim"] = 0  # the example's attention has no bias
        dataset.layout = Layout(cfg.pe, (3,), pairs=False)
    spec = GraphSpec(
        "regression", 1, (28,), (3,), target_mean=mean, target_std=deviation, mean_nodes=23.2, **sizes
    )
    model = build_model(cfg.model, spec)
    model.start_from(figures_of(dataset))
    task = GraphTask(model, spec, cfg.loss)
    optimizer = get_optimizer(task, "adamw", lr=1e-3)
    step = stepper(optimizer)  # as the trainer takes it
    loader = Loader(dataset, 32, shuffle=True, lengths=dataset.lengths if same_size else None)

    def epoch() -> None:
        for batch in loader:
            task(batch, Context()).loss.backward()
            step()
            optimizer.zero_grad(set_to_none=True)

    return epoch, sum(p.numel() for p in task.parameters())


def peer(graphs: Any, checkout: Path) -> tuple[Callable[[], None], int]:
    """An epoch of training of the example's model, and its parameters."""
    from torch_geometric.loader import DataLoader
    from torch_geometric.transforms import AddRandomWalkPE

    from tinsmith.families.graph.pyg import to_data

    transform = AddRandomWalkPE(walk_length=20, attr_name="pe")
    items = []
    for item, row in zip(
        to_data(graphs, torch.from_numpy(graphs.atoms[:, :1]).long()), graphs.y, strict=True
    ):
        item.y, item.edge_attr = torch.from_numpy(row), item.edge_attr[:, 0]
        items.append(transform(item))
    namespace: dict[str, Any] = {}
    exec(compile(definitions(checkout / "examples" / "graph_gps.py"), "graph_gps.py", "exec"), namespace)
    model = namespace["GPS"](
        channels=64, pe_dim=8, num_layers=10, attn_type="multihead", attn_kwargs={"dropout": 0.5}
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, weight_decay=1e-5)
    loader = DataLoader(items, batch_size=32, shuffle=True)

    def epoch() -> None:
        model.train()
        for data in loader:
            optimizer.zero_grad()
            out = model(data.x, data.pe, data.edge_index, data.edge_attr, data.batch)
            F.l1_loss(out.squeeze(), data.y).backward()
            optimizer.step()

    return epoch, sum(p.numel() for p in model.parameters())


def definitions(path: Path) -> ast.Module:
    """The imports and classes of a script, without what it runs."""
    tree = ast.parse(path.read_text("utf-8"))
    kept: Iterator[ast.stmt] = (
        node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom, ast.ClassDef))
    )
    return ast.Module(body=list(kept), type_ignores=[])


if __name__ == "__main__":
    sys.exit(main())
