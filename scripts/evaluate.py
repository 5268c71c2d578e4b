"""``tinsmith eval`` under the name that users of Hydra know.

    python scripts/evaluate.py checkpoint=runs/graph/0001 [split=valid]

``checkpoint`` is a run, its folder, or anything in it: the run's best weights are measured.
"""

import sys
from pathlib import Path

from tinsmith.cli import main


def words(arguments: list[str]) -> list[str]:
    """The command line of ``tinsmith eval``; other words are passed on."""
    known = dict(word.split("=", 1) for word in arguments if word.startswith(("checkpoint=", "split=")))
    rest = [word for word in arguments if not word.startswith(("checkpoint=", "split="))]
    run = known.get("checkpoint", "last")
    for folder in (Path(run), *Path(run).absolute().parents):
        if (folder / "run.json").is_file():
            run = str(folder)
            break
    return ["eval", run, *(["--split", known["split"]] if "split" in known else []), *rest]


if __name__ == "__main__":
    sys.exit(main(words(sys.argv[1:])))
