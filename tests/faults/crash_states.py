"""What a disk may hold after a power loss in the middle of recorded calls.

The model is weak: a file's data since its last sync may be missing, short or zeros, and of a folder's entries
(create, rename, unlink) since the folder's last sync any may be missing, in any combination, also where they
point to data that is. A rename is one change: the old name goes and the new one comes together. What is
synced is there. (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014, section 3.)
"""

import itertools
import random
import shutil
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from faults.shim import Op

Content = bytes | str | None  # of a file, where a link points to, of a folder
Tree = dict[str, Content]  # by relative path
FULL, HALF, ZEROS, NONE = "full", "half", "zeros", "none"
TOP = 0


@dataclass(frozen=True, eq=False)
class Entries:
    """One change of the names in a folder: name -> node, or None where it goes."""

    node: int
    names: dict[str, int | None]


@dataclass(frozen=True, eq=False)
class Data:
    """One change of a file's data: ``data`` at ``offset``, or None to cut it there."""

    node: int
    offset: int
    data: bytes | None


@dataclass(frozen=True, eq=False)
class Sync:
    """All earlier changes of a node are on the disk."""

    node: int


Change = Entries | Data


class Recording:
    """Recorded calls as changes of numbered nodes, from a folder ``base`` on that is on the disk."""

    def __init__(self, base: Path, root: Path, ops: Sequence[Op]) -> None:
        self.root, self.events = root.resolve(), list[Change | Sync]()
        self.contents: dict[int, Content] = {}
        self.entries: dict[int, dict[str, int]] = {}
        self._scan(base)
        self._live = deepcopy(self.entries)  # what a process sees
        self.saved_at: int | None = None  # the number of events when it said ok
        for op in ops:
            self._add(op)

    def _scan(self, path: Path) -> int:
        node = len(self.contents)
        if path.is_symlink():
            self.contents[node] = str(path.readlink())
        elif path.is_dir():
            self.contents[node], self.entries[node] = None, {}
            for child in sorted(path.iterdir()):
                self.entries[node][child.name] = self._scan(child)
        else:
            self.contents[node] = path.read_bytes()
        return node

    def _add(self, op: Op) -> None:
        if op.call == "mark":
            if op.path == "saved" and self.saved_at is None:
                self.saved_at = len(self.events)
        elif op.call in ("create", "mkdir", "symlink"):
            self._name(op.path, self._new({"create": b"", "mkdir": None, "symlink": op.other}[op.call]))
        elif op.call in ("unlink", "rmdir"):
            self._name(op.path, None)
        elif op.call == "rename":
            self._rename(op.path, op.other)
        elif op.call in ("write", "truncate", "ftruncate"):
            data = op.data if op.call == "write" else None
            self.events.append(Data(self._find(op.path), op.offset, data))
        elif op.call == "fsync":
            self.events.append(Sync(self._find(op.path)))

    def _new(self, content: Content) -> int:
        node = len(self.contents)
        self.contents[node] = content
        if content is None:
            self.entries[node], self._live[node] = {}, {}
        return node

    def _find(self, path: str) -> int:
        node = TOP
        for name in Path(path).relative_to(self.root).parts:
            node = self._live[node][name]
        return node

    def _name(self, path: str, node: int | None) -> None:
        self._change(self._find(str(Path(path).parent)), {Path(path).name: node})

    def _rename(self, old: str, new: str) -> None:
        assert Path(old).parent == Path(new).parent, "the model knows renames inside one folder"
        self._change(
            self._find(str(Path(old).parent)), {Path(old).name: None, Path(new).name: self._find(old)}
        )

    def _change(self, folder: int, names: dict[str, int | None]) -> None:
        self.events.append(Entries(folder, names))
        _apply(self._live[folder], names)

    # ---- crash states ---------------------------------------------------------------------------------

    def states(self) -> Iterator[tuple[bool, Tree]]:
        """Each different state after each number of calls, and whether it had said ok by then."""
        seen = set()
        for n in range(len(self.events) + 1):
            saved = self.saved_at is not None and n >= self.saved_at
            for tree in self._after(n):
                key = (saved, hash(frozenset(tree.items())))
                if key not in seen:
                    seen.add(key)
                    yield saved, tree

    def _after(self, n: int) -> Iterator[Tree]:
        last_sync = {event.node: at for at, event in enumerate(self.events[:n]) if isinstance(event, Sync)}
        changes = [(at, event) for at, event in enumerate(self.events[:n]) if not isinstance(event, Sync)]
        pending = [event for at, event in changes if at > last_sync.get(event.node, -1)]
        names = [event for event in pending if isinstance(event, Entries)]
        files = sorted({event.node for event in pending if isinstance(event, Data)})
        for missing, fates in itertools.product(_subsets(names), _fates(files)):
            yield self._tree([event for _, event in changes if event not in missing], pending, fates)

    def _tree(self, changes: list[Change], pending: list[Change], fates: dict[int, str]) -> Tree:
        entries, contents = deepcopy(self.entries), dict(self.contents)
        for change in changes:
            if isinstance(change, Entries):
                _apply(entries[change.node], change.names)
            else:
                fate = fates.get(change.node, FULL) if change in pending else FULL
                old = contents[change.node]
                assert isinstance(old, bytes)
                contents[change.node] = _written(old, change, fate)
        return dict(_walk(TOP, "", entries, contents))


def _apply(folder: dict[str, int], names: dict[str, int | None]) -> None:
    for name, node in names.items():
        if node is None:
            folder.pop(name, None)
        else:
            folder[name] = node


def _written(old: bytes, change: Data, fate: str) -> bytes:
    if fate == NONE:
        return old
    if change.data is None:
        return old[: change.offset]
    data = bytes(len(change.data)) if fate == ZEROS else change.data
    if fate == HALF:
        data = data[: len(data) // 2]
    return old[: change.offset].ljust(change.offset, b"\0") + data + old[change.offset + len(data) :]


def _walk(
    node: int, path: str, entries: dict[int, dict[str, int]], contents: dict[int, Content]
) -> Iterator[tuple[str, Content]]:
    for name, child in entries[node].items():
        yield path + name, contents[child]
        if child in entries:
            yield from _walk(child, f"{path}{name}/", entries, contents)


def _subsets(names: list[Entries]) -> Iterator[set[Entries]]:
    """Which changes of names are missing: any where they are few, else a tail, all but one, or only one."""
    if len(names) <= 5:
        for size in range(len(names) + 1):
            yield from map(set, itertools.combinations(names, size))
        return
    for at, name in enumerate(names):
        yield from (set(names[at:]), {name}, set(names) - {name})
    yield set()
    for seed in range(8):
        yield set(random.Random(seed).sample(names, len(names) // 2))


def _fates(files: list[int]) -> Iterator[dict[int, str]]:
    """What became of unsynced data: the same for all files, or one file's is missing."""
    yield {}
    for fate in (NONE, HALF, ZEROS) if files else ():
        yield dict.fromkeys(files, fate)
    if len(files) > 1:
        yield from ({file: NONE} for file in files)


def lay_out(tree: Tree, root: Path) -> None:
    """Make the folder ``root`` hold that state and nothing else."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for name, content in tree.items():
        if content is None:
            (root / name).mkdir()
        elif isinstance(content, str):
            (root / name).symlink_to(content)
        else:
            (root / name).write_bytes(content)
