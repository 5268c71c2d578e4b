"""What an engine costs: the same training through tinsmith, its peers and a loop written by hand.

    python benchmarks/engine.py [--rounds 5] [--only tinsmith,hf-trainer] [--sizes small,large] [--threads 1]
                                [--peers-python PATH] [--output raw.json]

The same model, batches (made beforehand, read by a shuffling DataLoader), AdamW (fused; Keras has its own),
cosine schedule, clipping at 1.0 and number of steps, on a CPU; tinsmith and transformers spare the biases the
weight decay, the others do not. ``bare`` is the loop that people write. tinsmith runs with all that it
promises on: JSONL every 50 steps, checkpoints with exact resume, guard, progress to a pipe; with ``+ema`` a
weight average too; ``-off`` without all that can be turned off. The peers run with their defaults, some with
everything off too. Checkpoints fall where the defaults put them: Lightning's at the turn of an epoch,
transformers' after 500 steps, tinsmith's after 30 seconds, which these runs do not last (``safety.py``
measures what one costs).

Each run is a process of its own; a round runs every engine once, and each round begins with another. A step's
time is taken inside the model's forward: start-up and end are out, the turn of the epochs is in. A ratio is
taken within its round; shown are medians. ``--rounds`` is for each size and number of threads; on the large
size, where the ratio is near one, as many again follow with bare and tinsmith alone. One thread is pinned to
one core. Start-up is from the start of the process until the model's third forward begins (by then one step
is done, also where a batch was rehearsed before); memory is the peak of the resident set.

The peers are optional and no extra of the package: ``pip install lightning transformers accelerate
pytorch-ignite keras``, here or, with ``--peers-python``, in another environment that has tinsmith too; its
Python then runs every row, so that the ratios compare. Those not installed are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

# No torch here before all is measured: the peak memory of a child counts what its parent had at the fork.

HERE = Path(__file__).parent


class Engine(NamedTuple):
    loop: str  # the file in engine_loops
    variant: str
    package: str  # what has to be installed
    peer: bool = True


ENGINES = {
    "bare": Engine("bare", "", "torch", peer=False),
    "bare+ema": Engine("bare", "ema", "torch", peer=False),
    "tinsmith": Engine("tinsmith", "on", "tinsmith", peer=False),
    "tinsmith+ema": Engine("tinsmith", "ema", "tinsmith", peer=False),
    "tinsmith-off": Engine("tinsmith", "off", "tinsmith", peer=False),
    "lightning": Engine("lightning", "on", "lightning"),
    "lightning-off": Engine("lightning", "off", "lightning"),
    "fabric": Engine("fabric", "", "lightning"),
    "hf-trainer": Engine("hf_trainer", "", "transformers"),
    "accelerate": Engine("accelerate", "", "accelerate"),
    "ignite": Engine("ignite", "bar", "ignite"),
    "ignite-off": Engine("ignite", "off", "ignite"),
    "keras": Engine("keras", "", "keras"),
}
SIZES = ("small", "medium", "large")
ALONE = ("bare", "tinsmith")  # these run as many rounds again on the large size

# The largest ratio to the bare loop.
RATIOS = {
    ("small", "tinsmith"): 1.05,
    ("small", "tinsmith+ema"): 1.12,
    ("small", "tinsmith-off"): 1.00,
    ("large", "tinsmith"): 1.02,
}
START_SECONDS, MEGABYTES = 3.5, 20.0

# The packages that an import adds to those there at start.
IMPORTS = """
import sys
before = {name.partition(".")[0] for name in sys.modules} | set(sys.stdlib_module_names)
import STATEMENT
print(*sorted({name.partition(".")[0] for name in sys.modules} - before))
"""

Run = dict[str, float]  # what a child measures
Runs = dict[str, list[Run]]  # of each engine, a run for each round


@dataclass(frozen=True)
class Options:
    engines: list[str]
    sizes: list[str]
    threads: list[int]
    rounds: int
    python: str
    steps: int
    output: str | None


def main() -> int:
    options = parse()
    measured: dict[tuple[str, int], Runs] = {}
    for size in options.sizes:
        for threads in options.threads:
            runs = measured[size, threads] = measure(options, size, threads)
            say_table(size, threads, runs)
            if options.output:
                raw = {f"{size}, {name(count)}": found for (size, count), found in measured.items()}
                Path(options.output).write_text(json.dumps(raw, indent=1), encoding="utf-8")
    added = sorted(packages(options.python, "tinsmith") - packages(options.python, "torch") - {"tinsmith"})
    print(f"\npackages that `import tinsmith` adds to torch's: {', '.join(added) or 'none'}")

    from shown import show

    return show("engine", summary(measured, options.engines), bars(measured, len(added)))


def parse() -> Options:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help=f"some of {','.join(ENGINES)}; bare always runs")
    parser.add_argument("--sizes", default=",".join(SIZES), help="some of small,medium,large")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--peers-python", default=sys.executable, help="the Python that runs every row")
    parser.add_argument("--output", help="a file for what every run measured, as JSON")
    parser.add_argument("--steps", type=int, default=0, help=argparse.SUPPRESS)  # to try a row quickly
    args = parser.parse_args()
    wanted = args.only.split(",") if args.only else list(ENGINES)
    sizes, threads = args.sizes.split(","), [int(count) for count in args.threads.split(",")]
    if odd := [*set(wanted).difference(ENGINES), *set(sizes).difference(SIZES)]:
        parser.error(f"unknown: {', '.join(odd)}. There are {', '.join([*ENGINES, *SIZES])}")
    if args.rounds < 1 or min(threads) < 1 or (args.steps and args.steps < 10):
        parser.error("rounds and threads must be 1 or more, steps 10 or more")
    python = str(Path(args.peers_python).absolute())  # not resolved: a link is what makes an environment
    engines = ["bare", *installed([each for each in wanted if each != "bare"], python)]
    return Options(engines, sizes, threads, args.rounds, python, args.steps, args.output)


def installed(engines: Iterable[str], python: str) -> list[str]:
    """Those whose package is there; a line about each other one."""
    engines = list(engines)
    code = "import sys, importlib.util as u; print(*[int(u.find_spec(p) is not None) for p in sys.argv[1:]])"
    found = ask(python, code, *[ENGINES[engine].package for engine in engines]).split()
    there = []
    for engine, is_there in zip(engines, found, strict=True):
        if is_there == "1":
            there.append(engine)
        else:
            print(f"left out: {engine} ({ENGINES[engine].package} is not installed)", flush=True)
    return there


def packages(python: str, module: str) -> set[str]:
    """The packages that ``import module`` brings, but for the standard library."""
    return set(ask(python, IMPORTS.replace("STATEMENT", module)).split())


def ask(python: str, code: str, *words: str) -> str:
    """What a piece of code prints. With ``-P`` no file of this folder passes for a package."""
    command = [python, "-P", "-c", code, *words]
    return subprocess.run(command, text=True, check=True, stdout=subprocess.PIPE).stdout


# ---- measuring --------------------------------------------------------------------------------------


class ChildError(Exception):
    """A run failed; the message ends with the last lines that it wrote."""


def measure(options: Options, size: str, threads: int) -> Runs:
    """All rounds of one size. A peer that fails is left out of them; that it did, and how, is printed."""
    runs: Runs = {engine: [] for engine in options.engines}
    extra = options.rounds if size == "large" and "tinsmith" in runs else 0
    for round_ in range(options.rounds + extra):
        print(f"{size}, {name(threads)}: round {round_ + 1}", file=sys.stderr, flush=True)
        engines = [engine for engine in runs if round_ < options.rounds or engine in ALONE]
        first = round_ % len(engines)
        for engine in engines[first:] + engines[:first]:
            try:
                runs[engine].append(run(options, engine, size, threads))
            except ChildError as error:
                if not ENGINES[engine].peer:
                    raise SystemExit(str(error)) from None
                print(f"left out: {error}", flush=True)
                del runs[engine]
    return runs


def run(options: Options, engine: str, size: str, threads: int) -> Run:
    """One run of an engine in a new process and an empty folder.

    Raises:
        ChildError: it failed.
    """
    loop, variant, *_ = ENGINES[engine]
    inherited = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE.absolute()), *inherited]),
        "OMP_NUM_THREADS": str(threads),
        "CUDA_VISIBLE_DEVICES": "",  # Keras and others take a GPU where they see one
    }
    command = [options.python, "-m", "engine_loops.child", loop, variant, size, str(threads)]
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # a start-up with everything compiled, as users have it
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        command += [repr(started), str(options.steps)]
        done = subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True, check=False)
        if done.returncode:
            last = "\n".join(done.stderr.splitlines()[-15:])
            raise ChildError(f"{engine} ({size}, {name(threads)}) failed:\n{last}")
        result: Run = json.loads(Path(folder, "result.json").read_text(encoding="utf-8"))
    return result


# ---- what comes of it -------------------------------------------------------------------------------


def paired(runs: Runs, engine: str, other: str) -> list[float]:
    """The ratio of the two engines' steps in each round that had both."""
    return [a["us"] / b["us"] for a, b in zip(runs[engine], runs[other], strict=False)]


def middle(runs: Runs, engine: str, what: str) -> float:
    return median(each[what] for each in runs[engine])


def beyond_bare(runs: Runs, engine: str, what: str) -> float:
    """The median over the rounds of what an engine takes more than the bare loop."""
    pairs = zip(runs[engine], runs["bare"], strict=False)
    return median(a[what] - b[what] for a, b in pairs)


def say_table(size: str, threads: int, runs: Runs) -> None:
    from tinsmith.console import table

    rows = []
    for engine in runs:
        ratios = paired(runs, engine, "bare")
        row = {
            "engine": engine,
            "us a step": round(middle(runs, engine, "us"), 1),
            "x bare": three(median(ratios)),
            "min": three(min(ratios)),
            "max": three(max(ratios)),
            "+us": round(beyond_bare(runs, engine, "us"), 1),
            "import s": round(middle(runs, engine, "import_s"), 2),
            "start s": round(middle(runs, engine, "start_s"), 2),
            "start - bare": round(beyond_bare(runs, engine, "start_s"), 2),
            "MB": round(middle(runs, engine, "mb")),
            "MB - bare": round(beyond_bare(runs, engine, "mb")),
        }
        if "tinsmith" in runs:
            row["tinsmith / it"] = three(median(paired(runs, "tinsmith", engine)))
        rows.append(row)
    print(f"\n{size} step, {name(threads)}, {len(runs['bare'])} rounds\n{table(rows)}\n", flush=True)


def summary(measured: dict[tuple[str, int], Runs], engines: list[str]) -> list[dict[str, Any]]:
    """One row for each engine: its ratio to the bare loop everywhere, its start and its memory."""
    rows = []
    for engine in engines:
        row: dict[str, Any] = {"engine": engine}
        where = {key: runs for key, runs in measured.items() if engine in runs}  # not where it failed
        for (size, threads), runs in where.items():
            row[f"{size} {threads}t"] = three(median(paired(runs, engine, "bare")))
        if where:
            row["start s"] = round(worst(where, engine, "start_s"), 2)
            row["MB - bare"] = round(max(beyond_bare(runs, engine, "mb") for runs in where.values()))
        rows.append(row)
    return rows


def bars(measured: dict[tuple[str, int], Runs], added: int) -> dict[str, tuple[float, str, float]]:
    """The bars of what was measured; of start-up and memory the worst case counts."""
    found: dict[str, tuple[float, str, float]] = {}
    for (size, threads), runs in measured.items():
        for (of, engine), bar in RATIOS.items():
            if of == size and engine in runs:
                ratio = median(paired(runs, engine, "bare"))
                found[f"{size}, {name(threads)}: {engine} / bare"] = (round(ratio, 4), "<=", bar)
        peers = [engine for engine in runs if ENGINES[engine].peer]
        if peers and "tinsmith" in runs:
            ratio, peer = max((median(paired(runs, "tinsmith", peer)), peer) for peer in peers)
            # Ahead is below one, and shown.show knows "<=" only.
            found[f"{size}, {name(threads)}: tinsmith / {peer}, the nearest peer"] = (ratio, "<=", 1 - 1e-9)
    if any("tinsmith" in runs for runs in measured.values()):
        more = max(beyond_bare(runs, "tinsmith", "mb") for runs in measured.values())
        found["start-up, s"] = (round(worst(measured, "tinsmith", "start_s"), 2), "<=", START_SECONDS)
        found["memory over bare, MB"] = (round(more, 1), "<=", MEGABYTES)
    found["packages that the import adds"] = (added, "<=", 0)
    return found


def worst(measured: dict[tuple[str, int], Runs], engine: str, what: str) -> float:
    return max(middle(runs, engine, what) for runs in measured.values())


def name(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def three(value: float) -> float:
    return round(value, 3)


if __name__ == "__main__":
    sys.exit(main())
