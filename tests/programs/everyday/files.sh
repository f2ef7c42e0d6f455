# What programs do with names, modes, links, times and directories, and what they say when they fail.

tree() {
    mkdir -p t/a/b t/c
    seq 10 > t/a/ten
    seq 1000 > t/a/b/many
    : > t/c/empty
    ln -s ../a t/c/link
    ln -s nowhere t/c/dangling
    ln t/a/ten t/c/hard
    chmod 600 t/a/b/many
    chmod 755 t/c/empty
    touch -d @1500000000.123456789 t/a/ten
    touch -d @1600000000 t/c/empty
    touch -h -d @1400000000 t/c/link
    touch -d @1300000000 t/a/b
}

### cp
#: setup: tree
cp t/a/ten one; cp -r t r; cp -a t a; cp -p t/a/b/many p; cp -l t/a/ten l; cp -s t/a/ten s
cp -v t/c/empty t/a
cp t r 2>&1; echo $?
cp none x; echo $?
cp -u t/a/ten one
cp -rL t/c/link deref
cp --parents t/a/b/many r; cp -b one l; cp --sparse=always t/a/b/many sparse; cp -n one p; cat l~

### mv
#: setup: tree
mv t/a/ten t/c/eleven
mv t/a t/z
mv -v t/z/b/many .
mv -n many t/c/empty; echo $?
mv many t/c/empty
mv t t/c; echo $?
mv none x; echo $?
mkdir d
touch d/f
mv t/c d
mv -T d t/z; echo $?
mv -b t/z d
ls -R

### ln
#: setup: tree
ln t/a/ten new
ln -s t/a/ten sym
ln -sf other sym
ln -sr t/a/b/many t/c/rel
ln t/a/ten new; echo $?
ln -f t/a/b/many new
ln t/a dir; echo $?
ln -P sym symhard
ln none x; echo $?
readlink sym t/c/rel
stat -c '%n %h' new t/a/ten t/a/b/many

### ls
#: setup: tree
ls -R t
ls -la --time-style=+%s t/a/ten t/c/empty
ls -lR --time-style=+ t | grep -v '^total'
ls -1t t/a t/c
ls -S t/a
ls -F t/c
ls -d t/*
ls -lL --time-style=+ t/c/link
ls none; echo $?
ls -Q -i t/a/ten t/c/hard | cut -d' ' -f1 | uniq | wc -l
LS_COLORS= ls --color=always t/c | od -c | head -3; ls -s t/a/b; ls -A -m t

### rm and rmdir
#: setup: tree
rm t/a/ten
rm -v t/c/dangling
rm t/a; echo $?
rmdir t/a; echo $?
rm none; echo $?
rm -f none
rm -r t/a
mkdir e
rmdir -v e
chmod 500 t/c; rm -f t/c/empty; echo $?; chmod 700 t/c; echo y | rm -ri t/c/empty 2>&1; ls -R t

### mkdir
mkdir a
mkdir -p b/c/d
mkdir -m 2750 m
mkdir a; echo $?
mkdir x/y; echo $?
(umask 077; mkdir -p u/v)
mkdir -v w
mkdir -p b/c

### chmod
#: setup: tree
chmod 640 t/a/ten
chmod u+x,g-r,o=w t/a/b/many
chmod -R go-rwx t/c
chmod u+s,g+s t/c/empty
chmod +t t/a
chmod -v a=r t/c/hard
chmod --reference=t/a/b t/c
chmod 777 none; echo $?
stat -c '%n %a %A' t t/a t/a/* t/c/*
echo x >> t/a/ten; echo $?

### set-user-ID bits are lost on write
#: setup: tree
chmod 6755 t/c/empty
echo x >> t/c/empty
stat -c %a t/c/empty
chmod 6755 t/c/empty
chgrp "$(id -g)" t/c/empty
stat -c %a t/c/empty

### chown
#: setup: tree
chown "$(id -u)" t/a/ten
chown :"$(id -gn)" t/a/ten
chgrp "$(id -g)" t/c/empty; echo $?
touch t/c/new
stat -c "%U %G" t/c/new

### touch
touch a b
touch -d '2020-01-01 00:00:00.123456789 UTC' a
touch -a -d @1234567890 b
touch -m -d @1234567891.5 c
touch -r a d
touch -c none
ln -s a l
touch -h -d @77 l
touch -t 203801190314.07 future
touch x/y; echo $?
stat -c '%n %.9X %.9Y' a l future
stat -c %X b

### stat
#: setup: tree; touch -h -d @1400000000 t/c/link t/c/dangling
stat -c '%n %F %s %a %h %u %g %U %G %Y' t t/a/ten t/c/link t/c/dangling | sed '1s/ [^ ]*$//'
stat -L -c %F t/c/link
stat none; echo $?
stat -c '%i' t/a/ten t/c/hard | uniq | wc -l
stat -c '%s %b %B' t/a/b/many
stat -f -c '%S %l' .
stat -c '%N' t/c/link
test t/a/ten -ef t/c/hard; echo $?

### the time of a change is that of the change
touch old
sleep 0.02
touch new
[ new -nt old ] && echo newer
sleep 0.02
echo x >> old
[ old -nt new ] && echo changed
sleep 0.02
chmod 600 new
[ old -nt new ] && echo same
cp -p old copy
[ copy -nt old ] || [ old -nt copy ] || echo equal
mkdir d
sleep 0.02
touch mark
[ mark -nt d ] && echo before
sleep 0.02
touch d/f
[ d -nt mark ] && echo after

### du and df
#: setup: tree
du -a --apparent-size -b t
du -sk t
du -c t/a/b t/c | tail -1
df --output=size . | tail -1
df -P . | wc -l
df none; echo $?

### truncate, fallocate and holes
truncate -s 100000 t
truncate -s +5 t
truncate -s '<50' t
echo abc > f
truncate -s 5 f
od -c f
fallocate -l 8192 a
stat -c %s a
dd if=/dev/zero of=h bs=1 count=1 seek=1000000 status=none
cmp -n 1000000 h /dev/zero
cp --sparse=auto h h2
fallocate -p -o 0 -l 4096 a; echo $?

### install and mktemp
#: setup: seq 9 > f; touch -d @1500000000 f
install -m 751 f g
install -d -m 700 d/e
install -D -p f x/y/z
install -v f d
T=$(mktemp -d ./tmp.XXXXXX)
stat -c %a "$T"
F=$(mktemp -p "$T")
stat -c '%a %s' "$F"
rm "$F"
rmdir "$T"
mktemp none/XXXXXX; echo $?
N=$(mktemp --dry-run abcXXX)
[ -e "$N" ]; echo $?

### realpath and readlink
#: setup: tree
realpath t/c/link/ten --relative-to=.
readlink t/c/link
readlink -f t/c/link/b | sed "s|$PWD|.|"
realpath -e t/c/dangling; echo $?
realpath -m none/../x --relative-to=.
basename t/a/ten
dirname t/a/ten
pathchk -p 'a b'; echo $?
cd t/c/link && pwd -P | sed 's|.*/t/|t/|'
pwd -L | sed 's|.*/t/|t/|'

### a FIFO in a directory
mkfifo f
cat f & echo through > f
wait
[ -p f ]; echo $?
mkfifo f; echo $?
mkfifo -m 622 g
(echo one; echo two) > g & while read x; do echo "got $x"; done < g

### files without permission
#: setup: echo secret > f; chmod 000 f; mkdir d; echo x > d/f; chmod 600 d; mkdir r; echo x > r/f; chmod 500 r
cat f; echo $?
echo x > f; echo $?
ls d 2>&1 | sort
cat d/f
cd d
touch r/new; echo $?
mv r/f .; echo $?
rm -f f; echo $?
ls -l r | wc -l
cat /etc/shadow; echo $?
echo x > /etc/passwd
touch /usr/bin/x; echo $?
mkdir /x; echo $?
ls /root; echo $?
[ -w r ]; echo $?
[ -x d ]; echo $?

### execution without permission
#: setup: printf '#!/bin/sh\necho ran\n' > s; chmod 644 s; cp /bin/true t; chmod 600 t; mkdir d
./s; echo $?
./t; echo $?
./d; echo $?
./none; echo $?
sh ./s
chmod 711 t
./t; echo $?
printf '#!/no/such\n' > i
chmod +x i
./i; echo $?

### loops and dangling links
ln -s b a
ln -s a b
cat a; echo $?
ls a
ln -s self self
cd self
echo x > self/y; echo $?
ln -s to dangling
cat dangling
echo made > dangling
cat to
ln -s ../$(basename "$PWD") up
cat up/up/up/to
for i in $(seq 50); do ln -s l$((i + 1)) l$i; done
echo end > l51
cat l1; echo $?
# Of the 40 links that it follows at most Linux counts some twice if somebody mounts meanwhile.
cat l36

### errors in names
#: setup: mkdir d; echo > f
L=$(printf '%0300d' 0)
touch $L; echo $?
cat f/x; echo $?
cat d; echo $?
cd f
rmdir f; echo $?
mkdir f; echo $?
> d; echo $?
touch none/x; echo $?
cat ''; echo $?
ls d/../f/..

### a very deep path
for i in $(seq 60); do mkdir directory-with-a-name-of-sixty-characters-0123456789-0123456789$i; cd directory-with-a-name-of-sixty-characters-0123456789-0123456789$i || exit; done
echo deep > file
cat file
pwd | wc -c
ls -la --time-style=+ | wc -l
find . -type f
cd ../..
find . -type f | wc -c
/bin/pwd | wc -c

### names with newlines, quotes and other bytes
N=$(printf 'two\nlines')
touch -- "$N" "$(printf '\377\376 not utf-8 \200')" "$(printf 'tab\tand\033esc')" "it's" '"quoted"' '*' '-rf' ' ' 'ünïcödé' "$(printf 'caf\351')"
ls -b
find . -print0 | sort -z | tr '\0' '|'
echo
for f in *; do echo "$f" >> ./"$f"; done
mv -- "$N" "$(printf '\n')"
rm -- -rf
cat '*'
ls -Q
printf '%s\0' * | xargs -0 md5sum -- | cut -c1-32
mkdir "$(printf 'd\377')"
cd "$(printf 'd\377')" && echo in > "$(printf '\1\2\3')"
pwd | od -c | tail -3
ln -s "$(printf 'to\nnowhere\377')" l
readlink l | od -c
bash -c 'echo $0 | od -c' "$(printf '\377arg\n')"

### many files in one directory
mkdir m
cd m
seq -f 'file-%05g' 1000 | xargs touch
ls | wc -l
ls | md5sum
rm -f file-0[0-9]*7
ls | wc -l
find . -name '*99' | wc -l
mv file-00001 zzz
ls | tail -1
cd ..
rm -r m/file-01*

### open files that are renamed and removed
#: setup: seq 100 > f; seq 5 > g
exec 3< f 4>> g
rm f
mv g h
head -2 <&3
echo six >&4
cat h
ls -a
exec 5<> new
echo abc >&5
rm new
echo def >&5
cat /proc/self/fd/5
tail -1 <&3
exec 3>&- 4>&- 5>&-
ls -a

### replace a file while it is read
#: setup: seq 30000 > f
(read x; echo "$x"; seq 5 > g; mv g f; tail -1) < f; cat f

### appends from several processes
#: contents differ: log
# The processes run at the same time.
for p in 1 2 3 4; do (for i in $(seq 50); do echo "$p $i" >> log; done) & done
wait
sort -n -k1 -k2 log | md5sum
wc -l log

### locks
flock f sh -c 'flock -n f echo got it || echo busy'
exec 9> g
flock 9
flock -n g true; echo $?
flock -u 9
flock -n g true; echo $?
(flock -s 9; flock -n -s g echo shared)
flock -w 0.1 -x h -c 'echo $0'

### a changed directory is seen at once
#: setup: tree
ls t/a
touch t/a/new
ls t/a
(cd t/a && rm ten && mkdir sub)
ls t/a
[ -e t/a/sub/x ]; echo $?
echo > t/a/sub/x
[ -e t/a/sub/x ]; echo $?
mv t/a t/aa
ls t t/aa
[ -e t/a/new ]; echo $?
mkdir t/a
ls t/a

### the working directory goes away
mkdir d; cd d; rmdir ../d; ls; echo $?; touch x; echo $?; cd ..; ls
