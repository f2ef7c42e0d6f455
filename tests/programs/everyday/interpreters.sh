# Python, Perl, Node.js, Tcl.

### python3
python3 -c 'import sys; print(sys.argv, sys.stdin.read()); sys.stderr.write("err\n"); sys.exit(5)' a b < /dev/null; echo $?
python3 -c 'import os; os.write(1, bytes(range(256)))' | od -c | md5sum
python3 -c 'raise ValueError("x")'; echo $?
echo 'print(6 * 7)' | python3
python3 nofile.py; echo $?

### python3 modules and byte code
#: contents differ: __pycache__/*
# Byte code holds the time of its source.
mkdir p
echo 'VALUE = 41' > p/__init__.py
echo 'from p import VALUE; print(VALUE)' > main.py
python3 main.py
ls p/__pycache__ | wc -l
sleep 0.02
echo 'VALUE = 4242' > p/__init__.py
python3 main.py
rm -r p/__pycache__
python3 -m json.tool <<< '{"a": [1, 2]}'
python3 -m compileall -q p
python3 -m zipfile -c x.zip p/__init__.py
rm x.zip
rm -r p/__pycache__

### python3 subprocess
python3 - <<'END'
import os, signal, subprocess, sys
print(subprocess.run(["sh", "-c", "cat; echo err >&2; exit 3"], input=b"in", capture_output=True))
p = subprocess.Popen(["sleep", "30"]); p.send_signal(signal.SIGTERM); print(p.wait())
print(subprocess.check_output("echo $0 | tr a-z A-Z", shell=True))
try: subprocess.run(["sleep", "30"], timeout=0.1)
except subprocess.TimeoutExpired as e: print("timeout", round(e.timeout, 1))
try: subprocess.run(["nosuch"])
except FileNotFoundError as e: print(e)
a = subprocess.Popen(["seq", "100"], stdout=subprocess.PIPE); b = subprocess.Popen(["wc", "-l"], stdin=a.stdout, stdout=subprocess.PIPE)
a.stdout.close(); print(b.communicate()[0]); print(os.system("exit 4") >> 8, os.popen("echo popen").read())
pid = os.posix_spawn("/bin/echo", ["echo", "spawned"], os.environ); print(os.waitpid(pid, 0)[1])
sys.exit(9)
END

### python3 multiprocessing
#: setup: printf 'import multiprocessing as m\nfrom multiprocessing import shared_memory\ndef square(x): return x * x\ndef put(q, n): q.put(n)\ndef bump(v, l):\n    for _ in range(500):\n        with l: v.value += 1\nif __name__ == "__main__":\n    for method in ("fork", "spawn", "forkserver"):\n        c = m.get_context(method)\n        with c.Pool(2) as p: print(method, p.map(square, range(10)))\n    v, l = m.Value("i", 0), m.Lock()\n    ps = [m.Process(target=bump, args=(v, l)) for _ in range(4)]\n    [p.start() for p in ps]; [p.join() for p in ps]; print(v.value)\n    q = m.Queue(); p = m.Process(target=put, args=(q, 7)); p.start(); print(q.get()); p.join(); print(p.exitcode)\n    s = shared_memory.SharedMemory(create=True, size=100); s.buf[0] = 9; t = shared_memory.SharedMemory(s.name); print(t.buf[0]); t.close(); s.close(); s.unlink()\n    with m.Manager() as g: d = g.dict(); d[1] = 2; print(dict(d))\n' > p.py
python3 -B p.py

### python3 threads and signals
python3 - <<'END'
import queue, signal, threading, time, concurrent.futures as f
q = queue.Queue(); ts = [threading.Thread(target=lambda: [q.put(i) for i in range(100)]) for _ in range(8)]
[t.start() for t in ts]; [t.join() for t in ts]; print(q.qsize())
with f.ThreadPoolExecutor(4) as e: print(sum(e.map(lambda x: len(open("/etc/passwd").read()) > 0, range(50))))
got = []; signal.signal(signal.SIGALRM, lambda *a: got.append(a[0])); signal.setitimer(signal.ITIMER_REAL, 0.05)
while not got: signal.pause()
print(got); signal.signal(signal.SIGUSR1, lambda *a: got.append("usr1")); signal.raise_signal(signal.SIGUSR1); print(got)
print(signal.sigtimedwait([signal.SIGUSR2], 0.01)); signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); signal.raise_signal(signal.SIGUSR2); print(signal.sigpending()); print(signal.sigwait([signal.SIGUSR2]))
end = threading.Event(); threading.Timer(0.02, end.set).start(); print(end.wait(20))
END

### python3 mmap
python3 - <<'END'
import mmap, os
with open("f", "wb") as f: f.write(b"x" * 100000)
with open("f", "r+b") as f:
    m = mmap.mmap(f.fileno(), 0); m[5000:5003] = b"abc"; m[99999] = 33; m.flush(); print(m.find(b"abc"))
    print(os.pread(f.fileno(), 5, 4999)); os.pwrite(f.fileno(), b"PW", 50000); print(m[49999:50003]); m.close()
print(open("f", "rb").read().count(b"x"))
with open("f", "r+b") as f:
    m = mmap.mmap(f.fileno(), 4096, flags=mmap.MAP_PRIVATE); m[0] = 65; m.close(); print(f.read(1))
with open("g", "w+b") as f:
    f.truncate(1 << 20); m = mmap.mmap(f.fileno(), 1 << 20)
    if os.fork() == 0: m[1 << 19] = 7; os._exit(0)
    os.wait(); print(m[1 << 19]); m.close()
END
cksum f g

### python3 asyncio
python3 - <<'END'
import asyncio, sys
async def main():
    p = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1); print(await p.communicate(b"through cat"))
    async def serve(r, w): w.write((await r.readline()).upper()); await w.drain(); w.close()
    s = await asyncio.start_server(serve, "127.0.0.1", 0); r, w = await asyncio.open_connection(*s.sockets[0].getsockname())
    w.write(b"over tcp\n"); print(await r.read()); w.close(); s.close()
    u = await asyncio.start_unix_server(serve, "sock"); r, w = await asyncio.open_unix_connection("sock"); w.write(b"over unix\n"); print(await r.read()); w.close(); u.close()
    print(await asyncio.gather(*(asyncio.sleep(0.01, i) for i in range(5))))
asyncio.run(main())
END
rm -f sock

### python3 files
python3 - <<'END'
import ctypes, errno, fcntl, os, shutil, stat, tempfile
os.mkdir("d"); d = os.open("d", os.O_RDONLY); f = os.open("f", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640, dir_fd=d); print(os.write(f, b"0123456789"), os.lseek(f, -3, os.SEEK_END), os.read(f, 9))
try: os.open("f", os.O_CREAT | os.O_EXCL | os.O_WRONLY, dir_fd=d)
except OSError as e: print(errno.errorcode[e.errno])
os.link("f", "g", src_dir_fd=d, dst_dir_fd=d); os.rename("g", "../h", src_dir_fd=d, dst_dir_fd=d); os.symlink("x", "s", dir_fd=d); print(os.readlink("s", dir_fd=d), os.fstat(f).st_nlink)
print(sorted((e.name, e.is_file(), e.is_symlink(), e.inode() == e.stat(follow_symlinks=False).st_ino) for e in os.scandir("d")))
fcntl.lockf(f, fcntl.LOCK_EX, 3, 2)
if os.fork() == 0:
    try: fcntl.lockf(os.open("h", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 4)
    except OSError as e: print("locked", errno.errorcode[e.errno], flush=True)
    fcntl.lockf(os.open("h", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 7); print("free", flush=True); os._exit(0)
os.wait(); os.utime("h", ns=(1, 1234567890123456789)); print(os.stat("h").st_mtime_ns); os.utime("h", ns=(5, 5))
os.posix_fallocate(f, 0, 5000); os.ftruncate(f, 4000); os.fsync(f); os.fdatasync(f); print(os.fstat(f).st_size)
g = os.open("copy", os.O_RDWR | os.O_CREAT); print(os.copy_file_range(f, g, 4000), os.sendfile(g, f, 0, 10)); os.lseek(g, 0, 0); print(os.read(g, 4)); os.fchmod(g, 0o604)
a = os.open("a", os.O_WRONLY | os.O_CREAT | os.O_APPEND); os.write(a, b"one"); os.lseek(a, 0, 0); os.write(a, b"two"); print(open("a").read())
t = tempfile.TemporaryFile(dir="."); t.write(b"unnamed"); t.seek(0); print(t.read(), os.fstat(t.fileno()).st_nlink)
print(shutil.disk_usage(".").total > 0, os.access("/etc/shadow", os.R_OK), os.access("h", os.W_OK), stat.filemode(os.stat("copy").st_mode), os.pathconf(".", "PC_NAME_MAX"))
for call, *arguments in ((os.rmdir, "."), (os.unlink, "d"), (os.rename, "d", "d/x"), (os.link, "d", "l"), (os.mkdir, "a"), (os.open, "h/x", 0), (os.readlink, "h"), (os.open, "d", os.O_WRONLY), (os.truncate, "none", 0), (os.listdir, "h"), (os.mknod, "n", stat.S_IFCHR | 0o600, 259)):
    try: print(call(*arguments))
    except OSError as e: print(call.__name__, errno.errorcode[e.errno])
libc = ctypes.CDLL(None, use_errno=True); print(libc.renameat2(-100, b"a", -100, b"copy", 1), ctypes.get_errno(), libc.renameat2(-100, b"a", -100, b"copy", 2), ctypes.get_errno(), open("copy").read())
END

### python3 extended attributes
python3 - <<'END'
import os
open("f", "w").close()
try:
    os.setxattr("f", "user.one", b"1\0\xff"); os.setxattr("f", "user.two", b"2"); print(sorted(os.listxattr("f")), os.getxattr("f", "user.one")); os.removexattr("f", "user.one"); print(os.listxattr("f"))
    os.setxattr("f", "user.two", b"", os.XATTR_CREATE)
except OSError as e: print(e)
try: os.getxattr("f", "user.none")
except OSError as e: print(e)
END

### python3 on a pty of its own
python3 - <<'END'
import os, pty, termios
pid, fd = pty.fork()
if pid == 0: os.execvp("sh", ["sh", "-c", "tty > /dev/null && echo on a tty; stty size; stty -echo; read x; echo got $x; exit 3"])
termios.tcsetwinsize(fd, (30, 90)); os.write(fd, b"typed\n"); out = b""
try:
    while data := os.read(fd, 100): out += data
except OSError: pass
print(b"on a tty" in out, b"got typed" in out, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
END

### perl
#: replace: line \d+: +\d+ => line N: PID
# The shell tells the pid of what was killed.
perl -e 'print "@ARGV\n"; while (<STDIN>) { s/(\d+)/$1*2/ge; print } exit 6' a b < <(seq 3); echo $?
perl -MFile::Find -e 'find(sub { print "$File::Find::name\n" if -f }, "."); open(F, ">out") or die; print F pack("nA3", 258, "abc"); close F; print -s "out", "\n"; if (!(my $pid = fork)) { exit 3 } wait; print $? >> 8, "\n"; print `echo backtick`; rename "out", "o2" or die; kill 9, $$'; echo $?
perl -ne 'print if 2..3' /etc/passwd | wc -l
perl -i.bak -pe 's/a/b/' o2
perl -e 'die "dead\n"'; echo $?

### perl modules
perl -MDigest::MD5=md5_hex -MStorable -MIPC::Open3 -MTime::HiRes=sleep -MPOSIX -e 'print md5_hex("x"), "\n"; store({a => [1, 2]}, "s"); print retrieve("s")->{a}[1], "\n"; my $p = open3(my $i, my $o, undef, "tr", "a-z", "A-Z"); print $i "upper\n"; close $i; print <$o>; waitpid $p, 0; print strftime("%F", gmtime(0)), "\n"; sleep 0.01; flock(STDOUT, 2); $SIG{ALRM} = sub { print "alarm\n" }; alarm 1; POSIX::pause()' | cat

### node
cat > p.js <<'END'
const fs = require('fs'), cp = require('child_process'), zlib = require('zlib'), path = require('path'), crypto = require('crypto');
const { Worker, isMainThread, parentPort } = require('worker_threads');
if (!isMainThread) { parentPort.postMessage('from a worker'); return; }
fs.mkdirSync('d/e', { recursive: true }); fs.writeFileSync('d/f', 'x'.repeat(100000)); fs.appendFileSync('d/f', 'end');
console.log(fs.statSync('d/f').size, fs.readdirSync('d'), path.basename(process.argv[1]), process.argv.slice(2));
console.log(cp.execSync('echo child | tr a-z A-Z').toString(), cp.spawnSync('sh', ['-c', 'exit 3']).status);
console.log(zlib.gunzipSync(zlib.gzipSync('zipped')).toString(), crypto.createHash('sha1').update('x').digest('hex'));
fs.createReadStream('d/f').pipe(fs.createWriteStream('d/copy')).on('finish', async () => {
  console.log(fs.readFileSync('d/copy').length, (await fs.promises.readFile('d/f')).length);
  const w = new Worker(__filename); w.on('message', m => { console.log(m); serve(); });
});
function serve() {
  const http = require('http'); const s = http.createServer((q, r) => r.end('served ' + q.url)).listen(0, '127.0.0.1', () =>
    http.get({ port: s.address().port, host: '127.0.0.1', path: '/x', agent: false }, r => r.on('data', d => console.log(d.toString())).on('end', () => { s.close(); process.exitCode = 5; })));
}
END
node p.js a b; echo $?
echo 'console.log(1 + 1)' | node
node -e 'throw new Error("x")' 2> /dev/null; echo $?
node -e 'process.kill(process.pid, "SIGTERM"); setTimeout(() => {}, 9999)'; echo $?

### tclsh
echo 'puts [expr 6 * 7]; set f [open out w]; puts $f [string repeat ab 3]; close $f; puts [exec cat out]; puts [lsort [glob *]]; if {[catch {open none} e]} {puts $e}; exit 3' > s.tcl
tclsh s.tcl; echo $?

### awk, sed and sh as one program
#: setup: seq 2000 > n
for i in 1 2 3 4 5 6 7 8 9 10; do awk -v i=$i '$1 % i == 0' n | sed "s/^/$i /" | while read a b; do [ "$b" -lt 5 ] && echo "$a:$b"; done; done
