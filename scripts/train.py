"""``tinsmith train graph`` under the name that users of Hydra know.

python scripts/train.py dataset=zinc12k_r dataset.path=data/zinc model=gps pe=default
"""

import sys

from tinsmith.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "graph", *sys.argv[1:]]))
