"""What a process knows of the others of its run before torch is imported, and how it tells the launcher."""

import contextlib
import json
import os
import time

NPROC = "TINSMITH_NPROC"  # how many processes `--nproc` started; each checks that torch finds as many


def is_launched() -> bool:
    """Whether torch's launcher started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """This process's number; 0 if it is alone."""
    return int(os.environ["RANK"]) if is_launched() else 0


def leave_error(message: str, code: int, lost: bool = False) -> bool:
    """Leave a message for the launcher, which tells the user; False if there is none.

    Args:
        lost: it is only that another process is gone: that one's own message says more.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path or NPROC not in os.environ:
        return False
    more = {"timestamp": str(int(time.time())), "code": code, "lost": lost}
    with contextlib.suppress(OSError), open(path, "w", encoding="utf-8") as file:
        json.dump({"message": {"message": message, "extraInfo": more}}, file)
        return True
    return False
