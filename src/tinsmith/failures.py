"""From an exception to an exit code, a message on stderr and a note in the run folder."""

import contextlib
import errno
import os
import sys
import traceback
from pathlib import Path

from tinsmith import console, launched
from tinsmith.errors import DivergedError, LostRankError, TinsmithError

_INTERRUPTED, _PIPE_CLOSED = 130, 141
_OUT_OF = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOMEM: "out of memory",
    errno.EMFILE: "too many open files",
}


def handle(error: BaseException, run_dir: Path | None, debug: bool) -> int:
    """Tell the user what happened; return the exit code.

    Args:
        run_dir: the folder of the run that failed, if one was being written: it gets ``error.txt`` and,
            should its record still say that this process runs it, a status that is true.
        debug: print the traceback too.
    """
    if isinstance(error, BrokenPipeError):
        _drop_stdout()
        code, message = _PIPE_CLOSED, ""
    else:
        code, message = explain(error)
    if debug:
        traceback.print_exception(error)
    if run_dir is not None and run_dir.is_dir():
        with contextlib.suppress(Exception):  # the disk may be full: the message below must come
            _leave_note(run_dir, error, code)
    if code == 1 and not debug:
        message += " Traceback: run it again with --debug"
        message += f", or see {run_dir / 'error.txt'}." if run_dir else "."
    lost = isinstance(error, LostRankError)
    if code == _INTERRUPTED and launched.rank():
        return code  # rank 0 says it
    if message and (code == _INTERRUPTED or not launched.leave_error(message, code, lost)):
        console.error(
            message, "stopped:" if isinstance(error, DivergedError | KeyboardInterrupt) else "error:"
        )
    return code


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code of an exception and what to say."""
    if isinstance(error, TinsmithError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED, str(error) or "interrupted."
    if _is_out_of_memory(error):
        return (
            7,
            "out of memory. Try half of trainer.batch_size with trainer.accumulate=2.",
        )
    if isinstance(error, OSError) and error.errno in _OUT_OF:
        place = f": {error.filename}" if error.filename else ""
        return 7, f"{_OUT_OF[error.errno]}{place}. Make room, or choose another place with --run-dir."
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("tinsmith"):
        return 6, f"the package '{error.name}' is not installed. See what is missing: tinsmith doctor"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    what = f"{type(error).__name__}: {error}".rstrip(": ").partition("\n")[0]
    return 1, f"this is a bug of tinsmith, not a mistake of yours: {what}{place}."


def _is_out_of_memory(error: BaseException) -> bool:
    """Python's, CUDA's (known by its name: torch may not be loaded), and that of torch on a CPU."""
    words = ("out of memory", "can't allocate memory")
    on_cpu = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or on_cpu


def _leave_note(run_dir: Path, error: BaseException, code: int) -> None:
    from tinsmith import runs

    if code not in (_INTERRUPTED, _PIPE_CLOSED):
        lines = [f"{runs.now()}  exit code {code}\n\n", *traceback.format_exception(error)]
        (run_dir / "error.txt").write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
    record = runs.open_run(run_dir).record
    if record.get("status") == "running" and record.get("pid") == os.getpid():
        status = {_INTERRUPTED: "interrupted", _PIPE_CLOSED: "interrupted", 4: "diverged"}.get(code, "failed")
        runs.write_run_json(run_dir, status=status, ended=runs.now())


def _drop_stdout() -> None:
    """Nobody reads stdout any more: keep the interpreter from complaining when it flushes it."""
    with contextlib.suppress(Exception):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
