"""Why not: what keeps a tree of processes from being moved, as /proc shows it while they run.

Nothing is stopped or traced. What only a stop shows is found by stubs.migration.collecting: what
is queued in sockets, memory that is sealed, what inotify watches. Runs in the namespaces of the
tree; a process that ends meanwhile has no reasons.
"""

from __future__ import annotations

import os
import stat

from stubs.abi.pidfd import KCMP_FILES, KCMP_VM, have_same
from stubs.abi.sock_diag import query_unix
from stubs.migration.events import check_timerfd, describe_epoll
from stubs.migration.fdinfo import Descriptor
from stubs.migration.foreign import Foreign, shared_mappings
from stubs.migration.kinds import PIDFD, refused_area
from stubs.migration.memory import Memory
from stubs.migration.naming import Names
from stubs.migration.proc import read_vmas
from stubs.migration.reasons import Reason, Unmovable, reason

__all__ = ["Reason", "Unmovable", "why_not"]

# Namespaces that a process shares with the one that asks; of the time namespace nobody can tell
# that from here.
_NAMESPACES = ("user", "mnt", "pid", "pid_for_children", "net", "uts", "ipc")

_ELFCLASS64 = 2


def why_not(pids: list[int], outside: dict[bytes, int], proc: str = "/proc") -> list[Reason]:
    """Return what keeps these processes from being moved together, each thing once.

    `outside` links of /proc/PID/fd of what leads out of the tree.
    """
    return _Question(pids, outside, proc).answer()


class _Question:
    def __init__(self, pids: list[int], outside: dict[bytes, int], proc: str) -> None:
        self._pids, self._outside, self._proc = pids, outside, proc
        self._found: list[Reason] = []
        self._names, self._memory = Names(proc), Memory()
        self._foreign = Foreign(pids, proc)
        self._sockets: set[int] = set()

    def answer(self) -> list[Reason]:
        tables = {}
        for pid in self._pids:
            try:
                self._check_status(pid)
                tables[pid] = self._descriptors(pid)
                self._check_maps(pid)
                self._check_program(pid)
                self._check_namespaces(pid)
                self._check_sharing(pid)
            except PermissionError:
                self._say("other_user", pid, "may not be looked into by this user")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
        found = [each for table in tables.values() for each in table]
        self._sockets = {each.stat.st_ino for each in found if each.text.startswith(b"socket:[")}
        for each in found:
            try:
                self._check_descriptor(each)
            except Unmovable as error:
                self._found.append(error.reason)
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just been closed
        return list(dict.fromkeys(self._found))

    def _say(self, name: str, pid: int, what: str) -> None:
        self._found.append(reason(name, pid, what, self._proc))

    def _read(self, pid: int, name: str) -> bytes:
        with open(f"{self._proc}/{pid}/{name}", "rb", buffering=0) as file:
            return file.read()

    def _check_status(self, pid: int) -> None:
        lines = [line.partition(b":") for line in self._read(pid, "status").split(b"\n")]
        status = {name: value.split() for name, _, value in lines}
        if {int(uid) for uid in status[b"Uid"]} != {os.geteuid()} or len(set(status[b"Gid"])) > 1:
            self._say("other_user", pid, "runs with the rights of another user")
        tracer = int(status[b"TracerPid"][0])
        if tracer not in (0, os.getpid()):
            self._say("ptraced", pid, f"is traced by process {tracer}")
        if status.get(b"Seccomp", [b"0"]) != [b"0"]:
            self._say("seccomp", pid, "filters its system calls")
        if status.get(b"VmLck", [b"0"])[0] != b"0":
            self._check_locked(pid)
        if status.get(b"HugetlbPages", [b"0"])[0] != b"0":
            self._say("hugetlb", pid, "has pages of hugetlbfs")
        if b"shstk" in status.get(b"x86_Thread_features", []):
            self._say("shadow_stack", pid, "has a shadow stack")
        if status[b"State"][0] == b"Z" and status[b"Threads"] != [b"1"]:
            self._say("dead_leader", pid, "has lost its first thread")

    def _check_locked(self, pid: int) -> None:
        for vma in read_vmas(pid, proc=self._proc):
            objection = refused_area(vma.path, vma.flags)
            if objection is not None:
                self._say(objection[0], pid, objection[1])

    def _descriptors(self, pid: int) -> list[Descriptor]:
        found = []
        for name in sorted(map(int, os.listdir(f"{self._proc}/{pid}/fd"))):
            try:
                found.append(Descriptor(self._proc, pid, name))
            except FileNotFoundError:
                continue  # it has just been closed
        return found

    def _check_maps(self, pid: int) -> None:
        data = self._read(pid, "maps")
        seen = set()
        for line in data.split(b"\n"):
            words = line.split(None, 5)
            if len(words) == 6 and words[5] not in seen:
                seen.add(words[5])
                objection = refused_area(words[5], ())
                if objection is not None:
                    self._say(objection[0], pid, objection[1])
        for key, path in shared_mappings(data).items():
            self._check_memory(pid, key, f"has {os.fsdecode(path)} mapped")

    def _check_memory(self, pid: int, key: tuple[bool, int], what: str) -> None:
        other = self._foreign.memory.get(key)
        if other is not None:
            self._say("foreign_shared_memory", pid, f"{what}, as has process {other}")

    def _check_program(self, pid: int) -> None:
        with open(f"{self._proc}/{pid}/exe", "rb") as file:
            header = file.read(5)
        if header[4:] != bytes([_ELFCLASS64]):
            self._say("bits32", pid, "is a 32-bit program")

    def _check_namespaces(self, pid: int) -> None:
        for name in _NAMESPACES:
            theirs = os.readlink(f"{self._proc}/{pid}/ns/{name}")
            if theirs != os.readlink(f"/proc/self/ns/{name}"):
                self._say("namespace", pid, f"is in a namespace of its own ({name})")
        root = os.readlink(f"{self._proc}/{pid}/root")
        if root != "/":
            self._say("namespace", pid, f"has a root directory of its own, {root}")

    def _check_sharing(self, pid: int) -> None:
        for name in os.listdir(f"{self._proc}/{pid}/task"):
            if int(name) != pid and not have_same(KCMP_FILES, pid, int(name)):
                self._say("shared_tables", pid, "has a thread with descriptors of its own")
        for other in self._pids[: self._pids.index(pid)]:
            if have_same(KCMP_VM, other, pid):
                self._say("shared_address_space", pid, f"shares its memory with process {other}")
            elif have_same(KCMP_FILES, other, pid):
                self._say("shared_tables", pid, f"shares its descriptors with process {other}")

    def _check_descriptor(self, found: Descriptor) -> None:
        found.check(self._outside)
        text = found.text
        if text in self._outside:
            return
        if text.startswith(b"/"):
            self._check_file(found)
        elif text.startswith(b"pipe:["):
            self._check_pipe(found)
        elif text.startswith(b"socket:["):
            self._check_socket(found)
        elif text == b"anon_inode:[timerfd]":
            check_timerfd(found)
        elif text == b"anon_inode:[eventpoll]" and len(self._pids) == 1:
            describe_epoll(found)
        elif text.startswith(PIDFD) and int(found.value("Pid")) not in (-1, *self._pids):
            raise found.refuse("pidfd", "has a pidfd of a process that is not its own")

    def _check_file(self, found: Descriptor) -> None:
        if found.kind == stat.S_IFREG and self._memory.has(found):
            key = self._memory.key(found)
            self._check_memory(found.pid, key, f"has {os.fsdecode(found.text)} open")
        elif found.kind != stat.S_IFCHR:
            self._names.describe(found)

    def _check_pipe(self, found: Descriptor) -> None:
        if found.flags & os.O_DIRECT:
            raise found.refuse("packet_pipe", "has a pipe that keeps packets apart")
        other = self._foreign.pipes.get(found.text)
        if other is not None:
            raise found.refuse("pipe_outside", f"has a pipe open that leads to process {other}")

    def _check_socket(self, found: Descriptor) -> None:
        try:
            known = query_unix(found.stat.st_ino)
        except FileNotFoundError:
            raise found.refuse("socket", "has a network socket open") from None
        if known.name or (known.peer and known.peer not in self._sockets):
            raise found.refuse("socket", "has a socket open that leads to another program")
