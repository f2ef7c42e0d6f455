# Version control, databases, cryptography, calculators, synchronisation.

identity() {
    cat > gitconfig <<'END'
[user]
    name = Alice
    email = alice@example.org
[init]
    defaultBranch = main
[protocol "file"]
    allow = always
END
}

repository() {
    identity
export GIT_CONFIG_GLOBAL=$PWD/gitconfig GIT_AUTHOR_DATE='1600000000 +0000' GIT_COMMITTER_DATE='1600000000 +0000'
    git init -q r
    (cd r; seq 100 > f; mkdir d; echo x > d/g; ln -s f l; git add .; git commit -qm one)
}

### git init, commit and log
#: setup: identity
#: contents differ: r/.git/index
#: times differ: r/.git/objects*
# The index holds times and inode numbers. What was changed in the same instant as the index is
# read again, which renews the times of the objects that it is found to be.
export GIT_CONFIG_GLOBAL=$PWD/gitconfig GIT_AUTHOR_DATE='1600000000 +0000' GIT_COMMITTER_DATE='1600000000 +0000'
git init r | sed "s|$PWD||"
cd r
seq 100 > f
mkdir d
echo x > d/g
ln -s f l
git status --short
git add .
git commit -m one
echo y >> f
git diff --stat
git commit -qam two
git log --stat --format='%H %an %s'
git status
git show HEAD~1:d/g
git mv f h
git rm -q d/g
git status --short
git commit -qm three
git log --oneline --follow h
git fsck --full; echo $?
git rev-parse HEAD
git diff --exit-code HEAD~1 > /dev/null; echo $?
git none; echo $?

### git clone, branch and merge
#: setup: repository
#: contents differ: */.git/index */index */objects/pack/* */logs/*
#: times differ: */objects* */logs* */refs*
# The index holds times and inode numbers; packs are made by threads; logs tell when. What was
# changed in the same instant as the index is read again, which renews the times of objects. Logs
# and references are rewritten in the order of a directory.
export GIT_CONFIG_GLOBAL=$PWD/gitconfig GIT_AUTHOR_DATE='1600000000 +0000' GIT_COMMITTER_DATE='1600000000 +0000'
git clone -q r c1
git clone -q --bare r b.git
git clone -q --no-local --depth 1 "file://$PWD/r" c2
cd c1
git checkout -q -b side
sed -i 5d f
git commit -qam side
git checkout -q main
sed -i 90d f
git commit -qam main2
git merge -q side -m merged; echo $?
git log --format=%s
git checkout -q -b clash HEAD~1
sed -i '5s/.*/clash/' f
git commit -qam clash
git merge side > /dev/null; echo $?
git status --short
git merge --abort
git rebase -q main; echo $?
git rebase --abort
git stash list
echo z > new
git add new
git stash -q
git status --short
git stash pop -q
git status --short
git remote -v | sed 's|/[^ ]*/||'
git push -q ../b.git main
git -C ../b.git log --format=%s main | head -1
git gc -q
git fsck
git worktree add -q ../w main~1
cat ../w/f | wc -l
git archive main | tar t
git blame -s f | tail -1
git grep -c clash
git tag v1
git describe --tags
git ls-files -s

### git sees what changed at once
#: setup: repository
#: contents differ: r/.git/index
# The index holds times and inode numbers.
export GIT_CONFIG_GLOBAL=$PWD/gitconfig
cd r
for i in 1 2 3 4 5 6 7 8; do echo $i > f; git status --short; git checkout -q f; git status --short; done
chmod +x f
git diff
rm l
ln -s d l
git diff --stat
touch f
git status --short
git clean -nd
git checkout .
git status --short

### sqlite3
sqlite3 x.db 'create table t(a integer primary key, b text); insert into t(b) values("one"),("two"); select * from t; begin; delete from t; rollback; select count(*) from t; pragma journal_mode; pragma integrity_check;'; echo $?
seq 500 | sed 's/.*/insert into t(b) values("row &");/' | sqlite3 x.db 'begin' '.read /dev/stdin' 'commit'
sqlite3 x.db 'select count(*), max(a) from t; create index i on t(b); explain query plan select * from t where b = "row 7"; vacuum;'
sqlite3 x.db .dump | md5sum
sqlite3 x.db 'select * from none'; echo $?
sqlite3 -json x.db 'select * from t limit 2'
sqlite3 :memory: 'select 6 * 7'
printf 'a,b\n1,2\n' > c.csv
sqlite3 c.db '.import --csv c.csv c' 'select * from c'
file x.db | cut -c1-30

### sqlite3 with a write-ahead log
sqlite3 x.db 'pragma journal_mode = wal; create table t(a); insert into t values(1);'
(for i in 2 3 4 5; do sqlite3 -cmd '.timeout 9000' x.db "insert into t values($i)"; done) & (for i in 12 13 14 15; do sqlite3 -cmd '.timeout 9000' x.db "insert into t values($i)"; done) & wait
sqlite3 x.db 'select * from t order by 1; pragma integrity_check; pragma wal_checkpoint(truncate); pragma journal_mode = delete;'
sqlite3 x.db 'create table s as select a from t order by a; drop table t; vacuum'
ls
rm x.db

### sqlite3 from several processes with a rollback journal
sqlite3 x.db 'create table t(a)'
for p in 1 2 3; do (for i in 1 2 3 4 5; do sqlite3 -cmd '.timeout 20000' x.db "insert into t values($p * 100 + $i)"; done) & done
wait
sqlite3 x.db 'select count(*), sum(a) from t; pragma integrity_check'
ls
rm x.db

### sqlite3 readers keep their snapshot
python3 - <<'END'
import sqlite3
a = sqlite3.connect("x.db", isolation_level=None); a.execute("pragma journal_mode=wal"); a.execute("create table t(x)"); a.execute("insert into t values(1)")
b = sqlite3.connect("x.db", isolation_level=None); b.execute("begin"); print(b.execute("select count(*) from t").fetchall())
a.execute("insert into t values(2)"); print(b.execute("select count(*) from t").fetchall()); b.execute("commit"); print(b.execute("select count(*) from t").fetchall())
a.execute("begin immediate")
try: b.execute("pragma busy_timeout=50"); b.execute("insert into t values(3)")
except sqlite3.OperationalError as e: print(e)
a.execute("commit"); b.close(); a.close()
END
rm x.db*

### openssl
#: setup: seq 5000 > data
openssl dgst -sha256 data
openssl enc -aes-256-cbc -pbkdf2 -S 0102030405060708 -k secret -in data -out data.enc 2> /dev/null
md5sum data.enc
openssl enc -d -aes-256-cbc -pbkdf2 -S 0102030405060708 -k secret -in data.enc 2> /dev/null | cmp - data
openssl enc -d -aes-256-cbc -pbkdf2 -k wrong -in data.enc > /dev/null 2>&1; echo $?
openssl genpkey -quiet -algorithm ed25519 -out key
openssl pkey -in key -pubout -out pub
openssl pkeyutl -sign -rawin -inkey key -in data -out sig
openssl pkeyutl -verify -rawin -pubin -inkey pub -in data -sigfile sig
stat -c '%a %s' key
openssl req -x509 -key key -subj /CN=x -days 1 | openssl x509 -noout -subject
openssl rand 10 | wc -c
rm key pub sig
openssl none > /dev/null 2>&1; echo $?

### bc
printf 'scale=50; 4*a(1); 2^200; define f(x) {\nif (x < 2) return (1); return (x * f(x - 1));\n}\nf(30)\n' | bc -l
echo '1/0' | bc; echo $?
bc <<< 'ibase=16; FF'
bc -q none < /dev/null; echo $?

### jq
#: setup: printf '{"a": [1, {"b": "x"}], "c": null, "d": 1.50}' > j
jq . j
jq -c '.a[1].b, .d, (.a | length)' j
jq -r '.a[1].b' j
jq '.e' j
jq -e .c j; echo $?
jq -n '[range(5)] | add'
jq '.a' <<< '{'; echo $?
jq -S --arg v 7 '. + {z: $v}' j
jq -s length j j
jq . none; echo $?

### rsync
#: times differ: a a/d links links/d s s/d
# It does not set a time that is wrong by less than a second.
#: setup: mkdir -p s/d; seq 2000 > s/f; : > s/d/e; ln -s f s/l; ln s/f s/h; chmod 700 s/d; touch -d @1600000000 s/f s/d/e s/d; cp -a s t; echo more >> t/f
rsync -aH s/ a
rsync -aiH --delete --checksum s/ t
touch s/d/new
rm s/l
rsync -ai --delete s/ a | grep -v ' \./'
rsync -rn --stats s/ a | head -2
rsync -a --exclude='*e*' --link-dest=../s s/ links
rsync -a none/ x 2> /dev/null; echo $?
rsync -a --inplace --no-whole-file s/f t/f
diff -r s a; echo $?

### diffoscope of a tree by checksums
#: setup: mkdir -p s/d; seq 2000 > s/f; seq 30 > s/d/g
find s -type f -exec sha256sum {} + | sort -k2 > sums
echo x >> s/d/g
sha256sum -c sums; echo $?
sha256sum --quiet --ignore-missing -c sums < /dev/null
b2sum s/f
md5sum --tag s/f
sha512sum --zero s/f | tail -c 5 | od -c

### strace of a child
strace -o log -e trace=openat cat /etc/hostname > /dev/null
grep -c hostname log
strace -f -qq -e trace=none -e signal=none sh -c 'true; exit 3'; echo $?
rm log

### ps, pgrep and kill within the program
sleep 30 & ps -o comm= -p $!
kill -0 $!; echo $?
pkill -P $$ sleep
wait $!; echo $?
ps -o comm=,nice= -p $$
ps -o stat= -p $$ | cut -c1
kill -l 9
pgrep -c -P $$ nosuch

### logger of time
#: contents differ: a
# What a holds is the time of day.
bash -c 'TIMEFORMAT=%R; time sleep 0.01' 2>&1 | cut -c1-3
printf '%(%Y)T\n' 0
date +%s > a
sleep 0.01
touch b
[ $(($(stat -c %Y b) - $(cat a))) -le 1 ]; echo $?
