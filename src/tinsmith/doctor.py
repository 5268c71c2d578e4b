"""What this machine offers to tinsmith: versions, device, threads, memory, disk, instructions, extras.

torch is imported inside a function only: that it cannot be imported is one of the things to find out.
"""

import os
import platform
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from tinsmith._version import __version__

_PACKAGES = ("torch", "numpy", "safetensors", "xxhash", "hydra-core", "tensorboard")
_NOT_FOR_USERS = ("all", "dev")
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")  # what the speed of training hangs on


def examine(folder: Path = Path()) -> dict[str, Any]:
    """All findings as plain values; ``problems`` lists what keeps tinsmith from working."""
    versions = {name: _version(name) for name in _PACKAGES}
    torch = _torch()
    problems = [
        f"{name} is not installed. Run: pip install tinsmith" for name in versions if not versions[name]
    ]
    if versions["torch"] and "error" in torch:
        problems.append(f"torch {versions['torch']} cannot be imported: {torch['error']}")
    return {
        "tinsmith": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": versions,
        **torch,
        "cpu": _cpu(),
        "memory_gb": _memory(),
        "disk_free_gb": round(shutil.disk_usage(folder).free / 1e9, 1),
        "extras": extras(),
        "problems": problems,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch() -> dict[str, Any]:
    """Devices, threads and the instruction set that torch uses."""
    try:
        import torch
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "devices": []}
    devices = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    return {
        "devices": [*devices, "cpu"],
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def _cpu() -> dict[str, Any]:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    words = set(re.findall(r"\w+", text))
    return {
        "model": model[1] if model else platform.processor() or platform.machine(),
        "usable_cores": count,
        "flags": [flag for flag in _FLAGS if flag in words],
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }


def _memory() -> dict[str, float | None]:
    """Gigabytes of memory: of the machine, available now, and the limit of this container if it has one."""
    total, free = _sysconf("SC_PHYS_PAGES"), _sysconf("SC_AVPHYS_PAGES")
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
        free = int(re.findall(r"MemAvailable:\s+(\d+)", text)[0]) * 1024  # counts what can be reclaimed
    except (OSError, IndexError):
        pass
    try:
        limit: int | None = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # no such file, or "max"
        limit = None
    found = {"total": total, "available": free, "limit": limit}
    return {name: round(value / 1e9, 1) if value else None for name, value in found.items()}


def _sysconf(pages: str) -> int | None:
    try:
        return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def extras() -> dict[str, dict[str, Any]]:
    """Each extra of the installed package: whether it is there, what is missing, the pip line."""
    needs: dict[str, list[str]] = {}
    for line in metadata.requires("tinsmith") or []:
        package = re.match(r"[\w.-]+", line)
        for extra in re.findall(r"""extra\s*==\s*['"]([\w-]+)['"]""", line):
            if package and package[0] != "tinsmith" and extra not in _NOT_FOR_USERS:
                needs.setdefault(extra, []).append(package[0])
    return {extra: _extra(extra, packages) for extra, packages in sorted(needs.items())}


def _extra(extra: str, packages: list[str]) -> dict[str, Any]:
    missing = [package for package in packages if _version(package) is None]
    return {
        "installed": not missing,
        "missing": missing,
        "pip": f"pip install 'tinsmith[{extra}]'" if missing else None,
    }


def describe(found: dict[str, Any]) -> str:
    """The findings of ``examine`` as text."""
    versions = " ".join(f"{name} {version or 'MISSING'}" for name, version in found["versions"].items())
    cpu, memory = found["cpu"], found["memory_gb"]
    limit = f", this container may use {memory['limit']} GB" if memory["limit"] else ""
    lines = [
        ("tinsmith", f"{found['tinsmith']}, Python {found['python']}, {found['system']}"),
        ("packages", versions),
        ("devices", ", ".join(found["devices"]) or "unknown"),
        ("cpu", f"{cpu['model']}, {cpu['usable_cores']} usable cores, {' '.join(cpu['flags'])}"),
        ("torch uses", f"{found.get('instructions', '?')}, {found.get('threads', '?')} threads"),
        (
            "memory",
            f"{memory['available']} of {memory['total']} GB available{limit}"
            if memory["total"]
            else "unknown",
        ),
        ("disk", f"{found['disk_free_gb']} GB free here"),
    ]
    for extra, state in found["extras"].items():
        lines.append((f"[{extra}]", "installed" if state["installed"] else f"missing: {state['pip']}"))
    lines += [("PROBLEM", problem) for problem in found["problems"]]
    return "\n".join(f"{name:<12}{text}" for name, text in lines)
