"""Every bar, one after another, and one table of what holds at the end.

    python benchmarks/run_all.py [--hour] [--runs runs/bench] [--output bars.json]

Never two at once: they measure time. Those on real data are skipped without TINSMITH_DATA; ``--hour`` adds
the hour of training. A benchmark that fails is a row of the table, and the next one runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tinsmith.console import table

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--hour", action="store_true")
    parser.add_argument("--puzzles", action="store_true", help="hours of training on puzzles")
    parser.add_argument("--runs", default="runs/bench", help="where the run folders go")
    parser.add_argument("--output", help="a file for all results as JSON")
    args = parser.parse_args()
    results = [
        run("engine", "--threads", "1"),
        run("data_path"),
        run("safety"),
        run("resume"),
        run("compiled"),
        run("contention"),
        run("sharding"),
        run("codec_overfit"),
        run("lm_speed"),
        run("seq2seq_made", "--runs", args.runs),
        run("trm_generator"),
        run("retrieval_speed"),
        run("trm_speed"),
        run("graph_csl"),
        run("graph_encodings"),
        run("graph_speed"),
    ]
    if os.environ.get("TINSMITH_DATA"):
        results.append(run("codec_quality", "--runs", args.runs))
        trained = newest(args.runs, "quality-8min")
        if trained is not None:
            results += [run("codec_speed", str(trained)), run("codec_sts", str(trained))]
        results.append(run("codec_decoder", "--runs", args.runs))
        writes = newest(args.runs, "decoder-15min")
        if writes is not None:
            results.append(run("codec_writing_speed", str(writes)))
        results += [run(name, "--runs", args.runs) for name in ("codec_joint", "codec_options")]
        results += [run("lm_quality", "--runs", args.runs), run("seq2seq_bpe")]
        results.append(run("seq2seq_quality", "--runs", args.runs))
        translator = newest(args.runs, "multi30k-5min", "seq2seq")
        results.append(run("seq2seq_speed", *([str(translator)] if translator else [])))
        results += [run("graph_quality", kind, "--runs", args.runs) for kind in ("molecules", "zinc", "sets")]
        if args.hour:
            hour = ["--minutes", "60", "--more-data", "--twice", "tatoeba", "--twice", "dialogue"]
            results.append(run("codec_quality", *hour, "--runs", args.runs, "preset=deep"))
    else:
        print("skipped: the codec's quality, speed and STS; set TINSMITH_DATA to the folder of real data")
    if args.puzzles:
        results += [run("trm_sudoku"), run("trm_curriculum", "--runs", args.runs), run("trm_code")]
    rows = [{"benchmark": result["benchmark"], **bar} for result in results for bar in result["bars"]]
    print(f"\nall bars\n{table(rows)}")
    if args.output:
        Path(args.output).write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0 if all(row["ok"] == "yes" for row in rows) else 5


def run(name: str, *words: str) -> dict[str, Any]:
    """Run a benchmark, show what it prints, and return the JSON of its last line."""
    command = [sys.executable, str(HERE / f"{name}.py"), *words]
    print(f"\n$ python benchmarks/{name}.py {' '.join(words)}", flush=True)
    out = subprocess.run(command, text=True, stdout=subprocess.PIPE, check=False)
    print(out.stdout, end="", flush=True)
    try:
        result: dict[str, Any] = json.loads(out.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        failed = {"bar": "runs at all", "measured": out.returncode, "required": "exit 0", "ok": "NO"}
        return {"benchmark": name, "rows": [], "bars": [failed]}
    return result


def newest(root: str, name: str, family: str = "codec") -> Path | None:
    """The last run folder of that name."""
    found = sorted(path.parent for path in Path(root).glob(f"{family}/*{name}*/run.json"))
    return found[-1] if found else None


if __name__ == "__main__":
    sys.exit(main())
