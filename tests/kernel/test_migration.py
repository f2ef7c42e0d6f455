import gzip
import itertools
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.movebed import Land, MoveError, compiled, lands, move
from tests.kernel.mruns import wait_until
from tests.kernel.test_tracee import ENDED_BY_TIME, ENDED_FROM_OUTSIDE

HERE = Path(__file__).parent

PYTHON = """
import hashlib, threading, multiprocessing.shared_memory as sm, time
print('ready', flush=True)
memory = sm.SharedMemory(create=True, size=1 << 20)
digests = [b''] * 3
def work(number):
    digest = hashlib.sha256(bytes([number]))
    for at in range(120000):
        digest.update(str(at).encode())
        memory.buf[at % 1000] = digest.digest()[0]
        if at % 6000 == 0: time.sleep(0.15)
    digests[number] = digest.hexdigest()
threads = [threading.Thread(target=work, args=(number,)) for number in range(1)]
heap = [str(number) * 10 for number in range(200000)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(digests[0], hashlib.sha256(memory.buf[:1000]).hexdigest(), hash(tuple(map(len, heap))))
memory.unlink()
"""
PERL = """
$| = 1; print "ready\\n"; my %h; my $x = 1;
for my $i (1..6000000) { $x = ($x * 1103515245 + 12345) % 2147483648; $h{$x % 5000} += $i; }
my $s = 0; for my $k (sort keys %h) { $s = ($s * 31 + $h{$k} + $k) % 1000000007; } print "$s\\n";
"""
NODE = """
const crypto = require('crypto'); console.log('ready');
let h = Buffer.from('x'), n = 0, ticks = 0;
const timer = setInterval(() => { ticks++ }, 20);
function step() {
  for (let i = 0; i < 15000; i++) h = crypto.createHash('sha256').update(h).digest();
  if (++n < 60) return setTimeout(step, 10);
  clearInterval(timer);
  crypto.pbkdf2('a', 'b', 100000, 32, 'sha256',
    (error, key) => console.log(h.toString('hex'), key.toString('hex'), ticks > 10));
}
step();
"""
GO = """
package main
import ("crypto/sha256"; "fmt"; "os"; "sync"; "time")
func main() {
  fmt.Println("ready")
  var wait sync.WaitGroup; var mutex sync.Mutex
  sum := make([]byte, 32); ticks := 0
  go func() {
    for range time.Tick(20 * time.Millisecond) { mutex.Lock(); ticks++; mutex.Unlock() }
  }()
  r, w, _ := os.Pipe()
  go func() {
    for i := 0; i < 40; i++ { time.Sleep(50 * time.Millisecond); fmt.Fprintf(w, "line %d\\n", i) }
    w.Close()
  }()
  total := 0; wait.Add(1)
  go func() {
    defer wait.Done(); b := make([]byte, 100)
    for { n, e := r.Read(b); total += n; if e != nil { return } }
  }()
  for g := 0; g < 4; g++ {
    wait.Add(1)
    go func(g int) {
      defer wait.Done(); h := sha256.Sum256([]byte{byte(g)})
      for i := 0; i < 1000000; i++ {
        h = sha256.Sum256(h[:]); if i%1000 == 0 { _ = make([]byte, 10000) }
      }
      mutex.Lock(); for i := range h { sum[i] ^= h[i] }; mutex.Unlock()
    }(g)
  }
  wait.Wait(); mutex.Lock(); fmt.Printf("%x %d %v\\n", sum, total, ticks > 50); mutex.Unlock()
}
"""
JAVA = """
import java.util.*; import java.security.*; import java.util.concurrent.*;
public class J { public static void main(String[] a) throws Exception {
  System.out.println("ready");
  ExecutorService executor = Executors.newFixedThreadPool(4);
  List<Future<byte[]>> all = new ArrayList<>();
  for (int g = 0; g < 4; g++) { final int number = g; all.add(executor.submit(() -> {
    MessageDigest digest = MessageDigest.getInstance("SHA-256");
    byte[] h = {(byte) number}; List<byte[]> kept = new ArrayList<>();
    for (int i = 0; i < 2500000; i++) {
      h = digest.digest(h);
      if (i % 100 == 0) kept.add(new byte[1000]);
      if (kept.size() > 2000) kept.clear();
    }
    return h; })); }
  byte[] sum = new byte[32];
  for (Future<byte[]> each : all)
    for (int i = 0; i < 32; i++) sum[i] ^= each.get()[i];
  Thread.sleep(300);
  System.out.println(new java.math.BigInteger(1, sum).toString(16)); executor.shutdown();
} }
"""

# Locks 64 KiB as they are, and of 1 MiB what is touched; tells both as the kernel does.
LOCKED = """
import ctypes, mmap, os, time
ballast = os.urandom(16 << 20)
libc = ctypes.CDLL(None)
areas = []
for size, how in ((65536, 0), (1 << 20, 1)):
    area = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    assert libc.mlock2(ctypes.c_void_p(address), ctypes.c_size_t(size), how) == 0
    areas.append((area, address))
areas[1][0][4096:8192] = b"x" * 4096
def tell():
    locked = {}
    for line in open("/proc/self/smaps"):
        if line[0] in "0123456789abcdef":
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
        elif line.startswith("Locked:"):
            size = int(line.split()[1])
        elif line.startswith("VmFlags") and "lo" in line.split():
            locked[start] = end - start, size, "lf" in line.split()
    print([locked.get(address) for _, address in areas], flush=True)
print("ready", flush=True)
tell()
end = time.monotonic() + 2
while time.monotonic() < end: pass
tell()
"""


class Desk:
    """A directory that everybody may use, and two lands."""

    def __init__(self, path: Path, two: list[Land]) -> None:
        self.path, self.lands = path, two

    def run(self, *argv: str, stdin: int | None = None) -> int:
        """Start a program whose output goes to a file here; returns when it is under way."""
        output = os.open(self.path / "out", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.fchmod(output, 0o666)
        null = os.open("/dev/null", os.O_RDWR)
        given = null if stdin is None else stdin
        pid = self.lands[0].run(*argv, stdio=(given, output, null), cwd=str(self.path))
        os.close(output)
        os.close(null)
        wait_until(lambda: "ready\n" in self.output() or argv[0] == "/bin/gzip", "the program")
        return pid

    def output(self) -> str:
        """Return what it has written so far."""
        path = self.path / "out"
        return path.read_text() if path.exists() else ""

    def move(self, pid: int, **options: Any) -> dict[str, Any]:
        """Move it to where it is not."""
        facts = move(self.lands[0], self.lands[1], pid, **options)
        self.lands.reverse()
        return facts

    def moved_often(self, *argv: str, pause: float = 0.2, **options: Any) -> str:
        """Run a program that is moved three times, and return what it wrote."""
        pid = self.run(*argv)
        for _ in range(3):
            time.sleep(pause)  # it is to be anywhere in its work
            facts = self.move(pid, **options)
            print({key: facts[key] for key in ("frozen_ms", "bytes", "rounds", "restore_calls")})
        assert self.lands[0].end_of(pid) == 0
        return self.output()

    def native(self, *argv: str) -> str:
        """Run a program that stays, and return what it wrote."""
        pid = self.run(*argv)
        assert self.lands[0].end_of(pid) == 0
        text = self.output()
        (self.path / "out").unlink()
        return text


def build(*command: str, cwd: Path, environment: dict[str, str]) -> None:
    """Compile something."""
    subprocess.run(command, cwd=cwd, env=environment, check=True)


@pytest.fixture
def desk() -> Iterator[Desk]:
    path = Path(tempfile.mkdtemp(prefix="mlaunch-moves-", dir="/tmp"))
    path.chmod(0o777)
    with lands(2) as two:
        yield Desk(path, two)
    shutil.rmtree(path)


@pytest.mark.parametrize("call", [*ENDED_FROM_OUTSIDE, *ENDED_BY_TIME])
def test_a_call_that_blocks_ends_elsewhere_as_ever(desk: Desk, call: str) -> None:
    reading, writing = os.pipe()
    name = os.fsencode(os.readlink(f"/proc/self/fd/{reading}"))
    pid = desk.run(compiled("moved", desk.path), call, stdin=reading)
    for _ in range(2):
        desk.move(pid, outside=({name: 7}, {7: reading}))
    if call in ENDED_FROM_OUTSIDE:
        os.write(writing, b"x")
    assert desk.lands[0].end_of(pid) == 0
    os.close(reading)
    os.close(writing)
    result = desk.output().split("\n")[1].split(maxsplit=1)[1].strip()
    assert result == (ENDED_FROM_OUTSIDE | ENDED_BY_TIME)[call]


@pytest.mark.parametrize("other_vdso", [False, True], ids=["same-vdso", "other-vdso"])
def test_threads_timers_and_signals_move(desk: Desk, other_vdso: bool) -> None:
    program = compiled("threads", desk.path)
    wanted = desk.native(program)
    assert "interrupted 0 alarms 1 alternate 1\nsignal 1 value 77" in wanted
    assert desk.moved_often(program, other_vdso=other_vdso) == wanted


def test_a_whole_tree_moves(desk: Desk) -> None:
    shutil.copy(HERE / "family.py", desk.path)
    command = ("/usr/bin/python3", "family.py")
    wanted = sorted(desk.native(*command).split("\n"))
    assert sorted(desk.moved_often(*command).split("\n")) == wanted


@pytest.mark.parametrize("lively", [False, True], ids=["stopped", "pre-copied"])
def test_memory_is_the_same_elsewhere(desk: Desk, lively: bool) -> None:
    program = compiled("heap", desk.path)
    assert desk.moved_often(program, "32", "4", "6", lively=lively).split("\n")[1] == "same same"


@pytest.mark.parametrize(("patience", "share"), [(10.0, 0.0), (0.1, 0.5)])
def test_what_is_to_be_away_promptly_soon_stands_still(
    desk: Desk, patience: float, share: float
) -> None:
    pid = desk.run(compiled("heap", desk.path), "48", "4", "3")
    facts = desk.move(pid, lively=True, patience=patience)
    (only,) = facts["rounds"]
    # What takes a tenth of a second was left: 12 MB, if sending is taken to be as slow as a link.
    assert share * facts["bytes"] <= only.bytes <= 1.9 * share * facts["bytes"]
    assert desk.lands[0].end_of(pid) == 0
    assert desk.output().split("\n")[1] == "same same"


def test_memory_that_is_all_written_to_is_not_sent_again_and_again(desk: Desk) -> None:
    pid = desk.run(compiled("heap", desk.path), "1", "64", "3")
    facts = desk.move(pid, lively=True)
    for one, next_one in itertools.pairwise(facts["rounds"]):
        assert next_one.bytes <= 0.9 * one.bytes
    assert desk.lands[0].end_of(pid) == 0
    assert desk.output().split("\n")[1] == "same same"


# Its second thread lives for a moment.
LATE = """
import threading, time
first = threading.Thread(target=int)
first.start()
first.join()
second = threading.Thread(target=time.sleep, args=(0.3,))
second.start()
open('late', 'w').write(str(second.native_id))
time.sleep(60)
"""


def test_a_number_that_another_gives_back_late_is_waited_for(desk: Desk) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    quiet: dict[str, Any] = {"stdio": (null, null, null), "cwd": str(desk.path)}
    # So that the program is the second here, and its thread the third.
    first = desk.lands[0].run("/bin/sleep", "0.5", **quiet)
    pid = desk.run("/usr/bin/python3", "-c", PYTHON)
    assert (pid, desk.lands[0].end_of(first)) == (first + 1, 0)
    desk.lands[1].run("/usr/bin/python3", "-c", LATE, **quiet)
    os.close(null)
    late = desk.path / "late"
    wait_until(lambda: late.exists() and late.read_text() != "", "the thread")
    assert int(late.read_text()) == pid + 1
    desk.move(pid)
    assert desk.lands[0].end_of(pid) == 0


@pytest.mark.parametrize("lively", [False, True], ids=["stopped", "pre-copied"])
def test_locked_memory_is_locked_elsewhere(desk: Desk, lively: bool) -> None:
    said = desk.moved_often("/usr/bin/python3", "-c", LOCKED, lively=lively).split("\n")
    assert said[1] == said[2] == "[(65536, 64, False), (1048576, 4, True)]"


def test_locked_memory_is_refused_where_so_much_may_not_be_locked(desk: Desk) -> None:
    pid = desk.run("/usr/bin/python3", "-c", LOCKED)
    desk.lands[1].ask("limit", resource.RLIMIT_MEMLOCK, 4096)
    with pytest.raises(MoveError, match="has locked 1088 KiB of memory, 4 KiB are allowed here"):
        desk.move(pid)
    assert desk.lands[0].end_of(pid) == 0
    assert desk.output().split("\n")[2] == "[(65536, 64, False), (1048576, 4, True)]"


@pytest.mark.parametrize(
    "command",
    [
        ("/usr/bin/python3", "-c", PYTHON),
        ("/usr/bin/perl", "-e", PERL),
        ("/usr/bin/node", "-e", NODE),
    ],
    ids=["python", "perl", "node"],
)
@pytest.mark.parametrize("lively", [False, True], ids=["stopped", "pre-copied"])
def test_a_program_ends_with_the_same_result(
    desk: Desk, command: tuple[str, ...], lively: bool
) -> None:
    if not os.path.exists(command[0]):
        pytest.skip(f"needs {command[0]}")
    wanted = desk.native(*command)
    assert desk.moved_often(*command, lively=lively) == wanted


@pytest.mark.parametrize("lively", [False, True], ids=["stopped", "pre-copied"])
def test_a_program_leaves_the_vdso_before_it_moves(desk: Desk, lively: bool) -> None:
    assert desk.moved_often(compiled("clock", desk.path), lively=lively) == "ready\n0\n"


def test_a_go_program_ends_with_the_same_result(desk: Desk) -> None:
    go = shutil.which("go")
    if go is None:
        pytest.skip("needs Go")
    (desk.path / "main.go").write_text(GO)
    environment = {"HOME": str(desk.path), "PATH": os.environ["PATH"], "GO111MODULE": "off"}
    build(go, "build", "-o", "program", "main.go", cwd=desk.path, environment=environment)
    program = str(desk.path / "program")
    wanted = desk.native(program)
    assert desk.moved_often(program) == wanted


def test_a_java_program_ends_with_the_same_result(desk: Desk) -> None:
    java, javac = shutil.which("java"), shutil.which("javac")
    if java is None or javac is None:
        pytest.skip("needs a JDK")
    (desk.path / "J.java").write_text(JAVA)
    build(javac, "J.java", cwd=desk.path, environment=dict(os.environ))
    command = (os.path.realpath(java), "-Xmx64m", "-cp", str(desk.path), "J")
    wanted = desk.native(*command)
    assert desk.moved_often(*command) == wanted


def test_gzip_moves_in_mid_stream(desk: Desk) -> None:
    data = b"".join(b"%d %d\n" % (number, number * number) for number in range(1500000))
    (desk.path / "data").write_bytes(data)
    source = os.open(desk.path / "data", os.O_RDONLY)
    pid = desk.run("/bin/gzip", "-9", stdin=source)
    os.close(source)
    for _ in range(3):
        time.sleep(0.3)
        assert desk.lands[0].status(pid) is None
        desk.move(pid)
    assert desk.lands[0].end_of(pid) == 0
    assert gzip.decompress((desk.path / "out").read_bytes()) == data


SPOILT = {
    "cpu_flags": "lacks what the program may use: avx4096",
    "vdso_position": "RestoreError",
    "process": "the image is broken",
    "cut": "the worker has ended",
}


def test_a_program_goes_on_where_it_was_when_the_destination_cannot_take_it(desk: Desk) -> None:
    pid = desk.run(compiled("heap", desk.path), "16", "1", "8")
    for spoilt, text in SPOILT.items():
        with pytest.raises(MoveError, match=text):
            desk.move(pid, spoilt=spoilt)
        assert desk.lands[1].ask("programs") == []
    desk.move(pid)
    assert desk.lands[0].end_of(pid) == 0
    assert desk.output() == "ready\nsame same\n"


def test_a_destination_killed_while_it_holds_the_tree_leaves_it_running_at_the_source(
    desk: Desk,
) -> None:
    program = compiled("threads", desk.path)
    wanted = desk.native(program)
    pid = desk.run(program)
    with pytest.raises(MoveError):
        desk.move(pid, killed="destination")
    wait_until(lambda: desk.lands[1].ask("programs") == [], "the end of what was held")
    assert desk.lands[0].end_of(pid) == 0
    assert desk.output() == wanted


def test_a_source_killed_while_the_tree_stands_still_takes_the_tree_with_it(desk: Desk) -> None:
    # Nobody could say any more whether it goes on elsewhere: it must not run twice.
    pid = desk.run(compiled("threads", desk.path))
    with pytest.raises(MoveError):
        desk.move(pid, killed="source")
    assert desk.lands[0].end_of(pid) == -signal.SIGKILL


def test_a_freeze_of_sixteen_megabytes_is_measured(desk: Desk) -> None:
    program = compiled("heap", desk.path)
    pid = desk.run(program, "14", "1", "60")
    found = []
    for number in range(10):
        facts = desk.move(pid, lively=number % 2 == 1)
        found.append((round(facts["frozen_ms"]), facts["bytes"] >> 20, len(facts["rounds"])))
    print("frozen ms, MB sent, rounds:", found)
    desk.lands[0].ask("kill", pid, signal.SIGKILL)
    assert desk.lands[0].end_of(pid) == -signal.SIGKILL


CLOCK = """
import time
print('ready', flush=True)
last = time.monotonic()
while last - BEGUN < 3:
    now = time.monotonic()
    if now < last or now - last > 0.9: print('jump', now - last, flush=True)
    last = now
    time.sleep(0.01)
print(time.clock_gettime(time.CLOCK_BOOTTIME) > 0, flush=True)
""".replace("while", "BEGUN = last\nwhile", 1)


def test_clocks_go_on_from_where_they_were(desk: Desk) -> None:
    assert desk.moved_often("/usr/bin/python3", "-c", CLOCK, pause=0.4) == "ready\nTrue\n"


SEALED = """
import fcntl, hashlib, mmap, os, sys, time
fd = os.memfd_create('sealed', os.MFD_ALLOW_SEALING)
os.write(fd, bytes(range(256)) * 64)
fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK)
memory = mmap.mmap(fd, 16384, mmap.MAP_SHARED, mmap.PROT_READ)
print('ready', flush=True)
time.sleep(1.5)
print(hashlib.sha256(memory).hexdigest(), fcntl.fcntl(fd, fcntl.F_GET_SEALS))
"""


def test_sealed_memory_moves(desk: Desk) -> None:
    wanted = desk.native("/usr/bin/python3", "-c", SEALED)
    assert desk.moved_often("/usr/bin/python3", "-c", SEALED) == wanted


DELETED = """
import ctypes, os, shutil, time
shutil.copy('library.so', 'copy.so')
library = ctypes.CDLL('./copy.so')
library.count()
os.unlink('copy.so')
print('ready', flush=True)
time.sleep(1.5)
print(library.count(), library.count())
"""


def test_a_library_without_a_name_moves_as_memory(desk: Desk) -> None:
    (desk.path / "library.c").write_text("int count(void) { static int n = 40; return ++n; }")
    command = ("gcc", "-shared", "-fPIC", "library.c", "-o", "library.so")
    build(*command, cwd=desk.path, environment={"PATH": os.environ["PATH"]})
    result = desk.moved_often("/usr/bin/python3", "-c", DELETED)
    assert result == "ready\n42 43\n"
