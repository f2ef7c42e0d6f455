"""Programs that are to move while they run: what each is, natively and under mrun.

Each is a shell script in which `$MRUN` stands before the program that moves. Natively it is empty;
so native is the oracle, and nothing here knows what a program should print. They compute for a few
seconds, so that there is time to move them.
"""

import re
from dataclasses import dataclass

# What all of them read lies in the directory above that in which they run.
INPUTS = r"""
python3 - <<'PYTHON'
import random
random.seed(1)
words = ["%x" % random.getrandbits(40) for _ in range(3000)]
with open("text", "w") as file:
    for _ in range(700000):
        file.write(" ".join(random.choices(words, k=6)) + "\n")
PYTHON
head -c 4000000 text > short
# The password is the last but two of its guesses.
(head -c 900000 text | tr " " "\n"; echo sesame; head -c 30 text) > guesses
openssl passwd -1 -salt abcdefgh sesame | sed 's/^/user:/' > hashes
"""

HEAP_PY = r"""
import hashlib, threading
heap = {i: ("%d" % i) * 5 for i in range(250000)}
found = {}
def work(part):
    digest = hashlib.sha256()
    for round in range(36):
        for i in range(part, len(heap), 3):
            digest.update(heap[i].encode())
            heap[i] = heap[i][1:] + heap[i][:1]
    found[part] = digest.hexdigest()
threads = [threading.Thread(target=work, args=(part,)) for part in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sorted(found.items()), hash(tuple(sorted(heap.values())[:10])) != 0)
"""

SHARED_PY = r"""
import multiprocessing as mp
from multiprocessing import shared_memory
def work(name, lock, queue, part):
    memory = shared_memory.SharedMemory(name)
    for i in range(4500000):
        memory.buf[part] = (memory.buf[part] * 5 + part + i) % 251
        if i % 1000 == 0:
            with lock:
                memory.buf[3] = (memory.buf[3] + 1) % 256
    queue.put((part, memory.buf[part]))
    memory.close()
if __name__ == "__main__":
    mp.set_start_method("fork")
    memory = shared_memory.SharedMemory(create=True, size=4096)
    lock, queue = mp.Lock(), mp.Queue()
    workers = [mp.Process(target=work, args=(memory.name, lock, queue, n)) for n in range(3)]
    for worker in workers: worker.start()
    told = sorted(queue.get() for _ in workers)
    for worker in workers: worker.join()
    print(told, memory.buf[3], [worker.exitcode for worker in workers])
    memory.close()
    memory.unlink()
"""

ASYNC_PY = r"""
import asyncio, sys
async def ask(process, word):
    process.stdin.write(word + b"\n")
    await process.stdin.drain()
    return await process.stdout.readline()
async def main():
    pipe = asyncio.subprocess.PIPE
    words = ("sh", "-c", "while read x; do echo $((x * 3 + 1)); done")
    process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe)
    ticks = 0
    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1
    ticking = asyncio.create_task(tick())
    number = 1
    for _ in range(350):
        number = int(await ask(process, b"%d" % (number % 100003)))
        await asyncio.sleep(0.01)
    ticking.cancel()
    process.stdin.close()
    print(number, await process.wait(), ticks > 10)
asyncio.run(main())
"""

PERL = r"""
my %seen; my $n = 7; my $sum = 0;
for my $i (1 .. 11_000_000) {
    $n = ($n * 1103515245 + 12345) % 2147483648;
    $seen{$n % 50021} .= "x" unless $i % 9;
    $sum = ($sum + $n) % 1000003;
}
my $text = join ",", map { "$_=" . length $seen{$_} } sort { $a <=> $b } keys %seen;
print "$sum ", unpack("%32C*", $text), "\n";
"""

GO = r"""
package main

import (
	"crypto/sha256"
	"fmt"
	"sync"
	"time"
)

func main() {
	results := make(chan [2]uint64)
	var wait sync.WaitGroup
	for w := uint64(0); w < 4; w++ {
		wait.Add(1)
		go func(w uint64) {
			defer wait.Done()
			kept := map[uint64][]byte{}
			sum := sha256.Sum256([]byte{byte(w)})
			for i := uint64(0); i < 2500000; i++ {
				sum = sha256.Sum256(sum[:])
				if i%1000 == 0 {
					kept[i] = append([]byte(nil), sum[:]...)
				}
			}
			total := uint64(0)
			for i, b := range kept {
				total += i * uint64(b[0])
			}
			results <- [2]uint64{w, total}
		}(w)
	}
	go func() { wait.Wait(); close(results) }()
	ticks := time.NewTicker(5 * time.Millisecond)
	seen := 0
	all := [4]uint64{}
	for results != nil {
		select {
		case <-ticks.C:
			seen++
		case r, ok := <-results:
			if !ok {
				results = nil
			} else {
				all[r[0]] = r[1]
			}
		}
	}
	fmt.Println(all, seen > 10)
}
"""

NODE = r"""
const crypto = require("crypto");
let hash = Buffer.from("start"), rounds = 0, ticks = 0;
const table = new Map();
const timer = setInterval(() => ticks++, 5);
function some() {
  for (let i = 0; i < 4000; i++) {
    hash = crypto.createHash("sha256").update(hash).digest();
    table.set(hash.readUInt32LE(0) % 10007, hash.readUInt32LE(4));
  }
  if (++rounds < 220) return setImmediate(some);
  clearInterval(timer);
  crypto.pbkdf2("a", "b", 100000, 32, "sha512", (error, key) => {
    let sum = 0;
    for (const [k, v] of table) sum = (sum + k * v) % 1000003;
    console.log(hash.toString("hex"), sum, key.toString("hex"), ticks > 10);
  });
}
some();
"""

JAVA = r"""
import java.util.*;
import java.util.concurrent.*;
public class Sums {
    public static void main(String[] words) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(3);
        List<Future<Long>> parts = new ArrayList<>();
        for (int part = 0; part < 3; part++) {
            final long seed = part + 1;
            parts.add(pool.submit(() -> {
                HashMap<Long, String> kept = new HashMap<>();
                long n = seed;
                for (int i = 0; i < 600000000; i++) {
                    n = n * 6364136223846793005L + 1442695040888963407L;
                    if (i % 256 == 0) kept.put(n >>> 50, Long.toHexString(n));
                }
                for (Map.Entry<Long, String> e : kept.entrySet())
                    n += e.getKey() * e.getValue().hashCode();
                return n;
            }));
        }
        for (Future<Long> part : parts) System.out.println(part.get());
        pool.shutdown();
    }
}
"""

# Processes that share memory, hand one another work by semaphores in it, and a thread in each.
SHARED_C = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#define N 3
struct shared { sem_t turn[N]; uint64_t sums[N], chain, cells[1 << 16]; } *all;
static int self;
static void *crunch(void *unused) {
    uint64_t x = self + 1;
    for (long i = 0; i < 600000000; i++) x = x * 6364136223846793005u + 1442695040888963407u;
    all->sums[self] = x;
    return NULL;
}
int main(void) {
    all = mmap(NULL, sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < N; i++) sem_init(&all->turn[i], 1, i == 0);
    for (self = 1; self < N; self++) if (fork() == 0) goto work;
    self = 0;
work:;
    pthread_t thread;
    pthread_create(&thread, NULL, crunch, NULL);
    for (int round = 0; round < 2000; round++) {
        sem_wait(&all->turn[self]);
        for (int i = self; i < 1 << 16; i += 7) {
            all->cells[i] = all->cells[i] * 31 + all->chain + i;
            all->chain += all->cells[i];
        }
        sem_post(&all->turn[(self + 1) % N]);
    }
    pthread_join(thread, NULL);
    if (self) _exit(self);
    int status, ended = 0;
    while (wait(&status) > 0) ended += WEXITSTATUS(status);
    uint64_t sum = all->chain;
    for (int i = 0; i < N; i++) sum = sum * 3 + all->sums[i];
    printf("%d %016llx\n", ended, (unsigned long long)sum);
    return 3;
}
"""

LOOP_C = "int main(void) { for (volatile long i = 0;; i++); }"

CHILDREN_SH = r"""
total=0
trap 'total=$((total + 1000))' USR1
for i in $(seq 40); do
    n=$(seq $((i * 2000)) | tr 1 2 | sort -n | md5sum | tr -dc 0-9 | cut -c 1-6)
    (sleep 0.05; exit $((i % 7))) &
    perl -e '$x += $_ for 1 .. 400_000; print "$x\n"' > part
    wait $!
    total=$(((total * 3 + 10#$n + $?) % 1000003))
    [ $((i % 10)) -gt 0 ] || kill -USR1 $$
    cat <<END | sed 's/^/line /'
$i $total $(< part)
END
done
exit 5
"""

SOURCES = {
    "heap.py": HEAP_PY,
    "shared.py": SHARED_PY,
    "async.py": ASYNC_PY,
    "sums.pl": PERL,
    "sums.go": GO,
    "sums.js": NODE,
    "Sums.java": JAVA,
    "shared.c": SHARED_C,
    "loop.c": LOOP_C,
    "children.sh": CHILDREN_SH,
}

BUILD = """
gcc -O1 -pthread -o shared-c shared.c
gcc -o loop loop.c
javac Sums.java
CGO_ENABLED=0 GOCACHE=/tmp/go-cache GOFLAGS=-mod=mod go build -o sums-go sums.go
"""


@dataclass(frozen=True)
class Program:
    """One program, and what of it may differ from run to run."""

    name: str
    script: str
    drop: str = ""  # lines of the output that match tell of times
    hide: tuple[str, ...] = ()  # files that tell of times

    def output(self, said: bytes) -> list[str]:
        """Return the lines that are to be the same."""
        lines = said.decode(errors="replace").splitlines()
        return [line for line in lines if not self.drop or not re.search(self.drop, line)]


JOHN = (
    "rm -rf ~/.john; $MRUN /usr/sbin/john {} --wordlist=../guesses ../hashes; "
    "/usr/sbin/john --show ../hashes"
)
# What john says of how fast it is, and of which of its processes is first to end.
TIMES = r"g/s|Waiting for|OpenMP"

PROGRAMS = (
    Program("gzip-file", "$MRUN gzip -9 < ../text > out.gz"),
    Program("gzip-pipe", "cat ../text | $MRUN gzip -9 | sha256sum"),
    Program("xz-file", "cp ../short .; $MRUN xz -6 -k short"),
    Program("xz-pipe", "cat ../short | $MRUN xz -6 | sha256sum"),
    Program(
        "sort", "mkdir t; $MRUN sort -S 2M -T t --parallel=2 -k 3 -k 1 ../text -o sorted; ls t"
    ),
    Program("python-heap", "PYTHONHASHSEED=1 $MRUN python3 ../heap.py"),
    Program("python-shared", "$MRUN python3 ../shared.py"),
    Program("python-async", "$MRUN python3 ../async.py"),
    Program(
        "ffmpeg",
        "$MRUN ffmpeg -v error -f lavfi -i testsrc2=size=320x240:rate=25:duration=55 -c:v libx264 "
        # Its threads do the same each time so.
        "-x264-params threads=2:sliced-threads=1:sync-lookahead=0 -bitexact out.mkv < /dev/null",
    ),
    Program("john-fork", JOHN.format("--fork=2"), TIMES),
    Program("john-openmp", "export OMP_NUM_THREADS=3; " + JOHN.format(""), TIMES),
    Program("perl", "$MRUN perl ../sums.pl"),
    Program("go", "$MRUN ../sums-go"),
    Program("node", "$MRUN node ../sums.js"),
    Program("java", "$MRUN java -Xmx64m -cp .. Sums"),
    Program(
        "ecm",
        "echo '2^1061-1' | $MRUN ecm -q -save saved -c 28 -sigma 1:7 25000; "
        "sed -i 's/ WHO=.*//' saved",  # and when
    ),
    Program("c-shared", "$MRUN ../shared-c"),
    Program("bash", "$MRUN bash ../children.sh"),
)
