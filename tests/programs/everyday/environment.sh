# What a program inherits and what it sees of itself.

### environment variables
A='x y' B=$'two\nlines' C= $MRUN env | grep -v ^_= | sort
env -i PATH=/usr/local/bin:/usr/bin $MRUN env | grep -v ^_=
D=$'\377' $MRUN sh -c 'printf %s "$D"' | od -c

### user and group
id
id -un
whoami
groups
getent passwd alice
echo ~bob
stat -c '%U %G' .
touch f
stat -c '%u %g %U' f
test -O f; echo $?

### host and system
hostname
uname -nsm
cat /etc/hostname
cat /etc/debian_version
python3 -c 'import socket, os; print(socket.gethostname(), os.uname().nodename)'

### locale and character sets
locale
LC_ALL=C sh -c 'printf "%s\n" b A a B | sort'
LC_ALL=C.UTF-8 awk 'BEGIN { print length("é") }'
python3 -c 'import sys; print(sys.getfilesystemencoding(), ascii("é"))'
LC_ALL=none_XX perl -e 1

### working directory
#: setup: mkdir -p a/b; ln -s a/b l
pwd
/bin/pwd
(cd a/b; $MRUN sh -c 'pwd; /bin/pwd; readlink /proc/self/cwd')
(cd l; $MRUN sh -c 'pwd; /bin/pwd; echo x > here; cd ..; pwd')
cd /
$MRUN pwd
cd /usr/share
$MRUN ls -d doc

### mrun in a place that no node has
#: at home
#: setup: mkdir d
(cd /proc/self; $MRUN echo in proc)
cd d; rmdir ../d; $MRUN sh -c 'echo running' 2> /dev/null; echo $?

### umask
umask 027
$MRUN sh -c 'umask; touch f; mkdir d; ( umask 0; touch g )'
umask 0177
$MRUN touch h
umask 022
$MRUN touch i

### resource limits
ulimit -S -n 200
ulimit -S -s 4096
ulimit -c 0
ulimit -S -t 100
$MRUN bash -c 'ulimit -S -n; ulimit -S -s; ulimit -c; ulimit -S -t; ulimit -S -n 50; ulimit -n; ulimit -f; ulimit -v'
(ulimit -f 10; $MRUN sh -c 'trap "" XFSZ; head -c 100000 /dev/zero > big'; echo $?; ls -s big | cut -d' ' -f1)
(ulimit -t 1; $MRUN sh -c 'while :; do :; done'; echo $?) 2> /dev/null
(ulimit -v 100000; $MRUN python3 -c 'bytearray(300 << 20)' 2>&1 | tail -1)

### a file size limit ends a program
(ulimit -f 10; $MRUN head -c 100000 /dev/zero > one; echo $?) 2> /dev/null
(ulimit -f 10; $MRUN sh -c 'exec cat /dev/zero > two'; echo $?) 2> /dev/null

### nice
nice -n 7 $MRUN nice
$MRUN nice -n 3 nice
nice -n 5 $MRUN sh -c 'cut -d" " -f19 /proc/self/stat; nice -n 2 nice'

### signals that are ignored or blocked
(trap '' TERM HUP; $MRUN sh -c 'kill -TERM $$; kill -HUP $$; echo alive')
$MRUN nohup sh -c 'kill -HUP $$; echo alive'
cat > block.py <<'END'
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM])
os.kill(os.getpid(), signal.SIGUSR1)
os.execvp(sys.argv[1], sys.argv[1:])
END
cat > show.py <<'END'
import os, signal
print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
os.kill(os.getpid(), signal.SIGTERM)
print(signal.SIGTERM in signal.sigpending(), signal.getsignal(signal.SIGINT) is not None)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
END
python3 block.py $MRUN python3 show.py; echo $?

### timeout of mrun
# The first mrun connects the node, which may take longer than a second. Whether a shell has a
# child just then, and says "Terminated" of it, is chance.
$MRUN true
timeout 1 $MRUN sleep 30; echo $?
timeout -s INT 1 $MRUN sh -c 'trap "echo int; exit 3" INT; while :; do sleep 0.01; done'; echo $?
timeout --preserve-status 1 $MRUN sh -c 'trap "exit 9" TERM; while :; do sleep 0.01; done 2> /dev/null'; echo $?

### standard streams that are closed
$MRUN cat <&-; echo $?
$MRUN /bin/echo x >&-; echo $?
$MRUN sh -c 'echo out; echo err >&2' 2>&-
$MRUN sh -c 'ls /proc/self/fd | head -3 | wc -l' <&-
$MRUN true <&- >&- 2>&-; echo $?

### descriptors beyond two
#: setup: seq 9 > in; seq 100 109 > more
$MRUN sh -c 'cat <&5; echo to seven >&7; read x <&6; echo $x' 5< in 6< more 7> out
$MRUN sh -c 'read a <&5; read b <&5; echo $a $b' 5< <(seq 3)
exec 8<> both
$MRUN sh -c 'echo written >&8'
$MRUN cat <&8
cat both
exec 9>> both
$MRUN sh -c 'echo appended >&9; echo again >&9'
cat both
$MRUN sh -c 'ls /proc/$$/fd' 4> four | sort -n | head -5

### descriptors that share an offset
#: setup: seq 20 > in
(read a; $MRUN sh -c 'read b; echo $b'; read c; echo $a $c; $MRUN head -n 2 > /dev/null) < in
($MRUN echo a; echo b; $MRUN sh -c 'echo c; echo d >&2') > log 2>&1
cat log
exec 5< in
$MRUN sh -c 'read x <&5; echo $x'
read y <&5
echo $y
$MRUN sh -c 'cat <&3 | tail -1' 3<&5
read z <&5; echo $?

### a directory and a deleted file as descriptors
#: setup: mkdir d; echo x > d/f; echo gone > g
$MRUN sh -c 'cd /proc/self/fd/5/ && ls' 5< d
exec 6< g
rm g
$MRUN cat <&6
exec 7> h
rm h
$MRUN sh -c 'echo into the void >&7'; echo $?

### devices
head -c 5 /dev/zero | od -c
echo x > /dev/null
head -c 3 /dev/urandom | wc -c
echo x > /dev/full; echo $?
ls -l --time-style=+ /dev/null | cut -c1-10
$MRUN cat < /dev/null
$MRUN sh -c 'head -c 3 | od -c' < /dev/zero
$MRUN /bin/echo x > /dev/full; echo $?
cat < /dev/tty; echo $?
tty
ls -ld /dev/shm | cut -c1-10
echo in > /dev/shm/mlaunch-case
cat /dev/shm/mlaunch-case
rm /dev/shm/mlaunch-case
echo to stdout > /dev/stdout
echo fd | cat /dev/fd/0
cat /dev/stdin <<< here

### proc of the program itself
#: replace: \d{3,} => PID
# Its pids.
cat /proc/self/comm
tr '\0' ' ' < /proc/self/cmdline
echo
readlink /proc/self/exe /proc/self/cwd /proc/self/root
[ $(cut -d' ' -f1 /proc/self/stat) -gt 0 ]; echo $?
bash -c 'echo $$ $(readlink /proc/self) > /dev/null; [ $PPID -gt 0 ]; tr "\0" "\n" < /proc/$$/environ | grep ^USER; [ -d /proc/$PPID ]; echo $?'
head -1 /proc/self/maps | grep -o '/.*'
grep -E '^(Name|Uid|Gid|Threads|Umask):' /proc/self/status
ls /proc/self/task | wc -l
bash -c 'exec -a renamed sh -c "tr \"\\0\" \" \" < /proc/\$\$/cmdline"'
cat /proc/self/limits | grep -c Max
cat /proc/self/oom_score_adj

### arguments of any kind
$MRUN printf '<%s>' '' 'a b' $'new\nline' $'\377' -n --node -- '*' "$(seq 3)"
$MRUN bash -c 'echo $0 $#' zero one -v --

### set-user-ID programs
#: at home
$MRUN passwd -S; echo $?
echo wrong | $MRUN su -c id 2>&1; echo $?
$MRUN /home/alice/bin/effective; echo $?
$MRUN mount -o remount,ro / 2>&1; echo $?
$MRUN /home/alice/bin/effective-group

### programs without set-user-ID rights inside
#: setup: cp /home/alice/bin/own-setuid .; chmod 4755 own-setuid
./own-setuid; stat -c %a own-setuid
