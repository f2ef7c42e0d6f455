# Home and a node work on the same files, in turn or at once.

### content changes in turn
for i in 1 2 3 4 5 6 7 8 9 10; do
    echo "home $i" > f
    $MRUN sh -c 'cat f; echo node >> f; wc -c < f'
    tail -1 f
done

### make sees what was changed at home
#: setup: printf 'b: a\n\tcp a b; echo made b\nc: b\n\tcat b > c; echo made c\n' > Makefile; echo 0 > a
# The pauses are longer than a tick of the clock that stamps files.
for i in 1 2 3 4 5 6 7 8; do
    $MRUN make -s c
    $MRUN make -q c; echo $?
    sleep 0.02
    echo $i >> a
    make -q c; echo $?
done
make -s c
$MRUN make -q c; echo $?
sleep 0.02
touch b
$MRUN make -s c
make -q c; echo $?

### make at home sees what was changed on a node
#: setup: printf 'b: a\n\tcp a b; echo made b\n' > Makefile; echo 0 > a
# The pauses are longer than a tick of the clock that stamps files.
for i in 1 2 3 4 5 6 7 8; do
    $MRUN sh -c "sleep 0.02; echo $i >> a"
    make -q b; echo $?
    sleep 0.02
    make -s b
    $MRUN sh -c 'sleep 0.02; touch b; make -q b'; echo $?
    make -q b; echo $?
    $MRUN sh -c 'sleep 0.02; touch a'
    make -s b
done
cat b

### a header changes between two compilers
#: setup: echo 'int main(void) { return N; }' > p.c; printf '#include "n.h"\n' | cat - p.c > q.c
for i in 1 2 3 4 5 6; do
    echo "#define N $i" > n.h; $MRUN gcc -o q q.c; $MRUN ./q; echo $?; ./q; echo $?; done

### names come and go
for i in 1 2 3 4 5 6; do
    touch h$i
    $MRUN sh -c "ls; rm h$i; touch n$i"
    ls
    rm n$i
    $MRUN ls
    mkdir d$i
    $MRUN sh -c "touch d$i/f; [ -e h$i ]; echo \$?"
    ls d$i
    mv d$i e$i
    $MRUN ls e$i d$i
done

### a file is replaced by another
for i in 1 2 3 4 5 6; do
    echo "content $i" > new
    mv new f
    $MRUN sh -c "cat f; echo 'node $i' > new; mv new f"
    cat f
    ln -sf f link
    $MRUN cat link
    $MRUN ln -sf none link
    readlink link
done

### sizes, modes and times
for i in 1 2 3 4; do
    truncate -s ${i}000 f
    chmod 6${i}0 f
    touch -d @160000000$i f
    $MRUN stat -c '%s %a %Y' f
    $MRUN sh -c "truncate -s ${i}5 f; chmod 7${i}1 f; touch -d @150000000$i.5 f"
    stat -c '%s %a %.2Y' f
done

### appends to one log from both
#: contents differ: log
# Both write at the same time.
(for i in $(seq 100); do echo "home $i" >> log; done) & $MRUN sh -c 'for i in $(seq 100); do echo "node $i" >> log; done'
wait
sort -k1,1 -k2n log | md5sum
wc -l < log
grep home log | sort -c -k2n; grep node log | sort -c -k2n

### appends through one descriptor
exec 5>> log; for i in 1 2 3; do echo "home $i" >&5; $MRUN sh -c "echo 'node $i' >&5"; done; cat log

### sqlite used from home and a node at once
#: contents differ: x.db
#: times differ: x.db home in
# Both write at the same time.
sqlite3 x.db 'create table t(who, n)'
insert='for i in $(seq 40); do echo ".timeout 30000"; echo "insert into t values(:who, $i);"; done'
(bash -c "$insert" | sed "s/:who/'home'/" | sqlite3 x.db; echo home $?) > home & bash -c "$insert" | sed "s/:who/'node'/" > in
$MRUN sqlite3 x.db < in
echo node $?
wait
cat home
sqlite3 x.db 'select who, count(*), sum(n) from t group by who order by who; pragma integrity_check'
$MRUN sqlite3 x.db 'select count(*) from t'

### sqlite used in turn
#: contents differ: x.db
# The number of changes counts retries.
sqlite3 x.db 'create table t(n)'
for i in 1 2 3 4 5 6; do
    sqlite3 x.db "insert into t values($i)"
    $MRUN sqlite3 x.db "select max(n) from t; insert into t values($i + 100)"
    sqlite3 x.db 'select max(n), count(*) from t'
done

### locks taken at home hold on a node
#: setup: touch f
exec 9> f
flock 9
$MRUN flock -n f true; echo $?
flock -u 9
$MRUN flock -n f echo got

### locks taken on a node hold at home
#: setup: mkfifo go
$MRUN flock f sh -c 'echo held; read x' < go > held &
exec 8> go
until [ -s held ]; do sleep 0.01; done
flock -n f true; echo $?
exec 8>&-
wait
flock -n f echo free

### git at home and on a node
#: setup: export GIT_CONFIG_GLOBAL=/dev/null; git init -q r; seq 20 > r/f; git -C r add f; git -C r -c user.name=A -c user.email=a@b commit -qm one
#: contents differ: r/.git/* r/.git/*/* r/.git/*/*/* r/.git/*/*/*/*
# Commits hold the time.
cd r
for i in 1 2 3 4; do
    echo $i >> f
    $MRUN git status --short
    $MRUN git -c user.name=A -c user.email=a@b commit -qam "$i"
    git status --short
    git log --format=%s | head -1
    $MRUN sed -i 1d f
    git diff --stat
    git checkout -q f
    $MRUN git status --short
done
rm -rf .git

### one program grows a file while another reads it
touch f
(for i in $(seq 50); do echo $i >> f; sleep 0.002; done; echo end >> f) & $MRUN sh -c 'until [ "$(tail -1 f)" = end ]; do sleep 0.01; done; wc -l < f'
wait
$MRUN sh -c 'for i in $(seq 50); do echo $i >> g; done; echo end >> g' & until [ "$(tail -1 g 2> /dev/null)" = end ]
do sleep 0.01
done
wc -l < g
wait
