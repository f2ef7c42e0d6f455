# Programs that are joined by pipes and share descriptors, of which some run on a node.

tarball() {
    mkdir dir
    seq 200000 > dir/numbers
    head -c 3000000 /bin/bash > dir/binary
    head -c 1000000 /dev/zero > dir/zeros
    ln -s numbers dir/link
    touch -h -d @1600000000 dir/* dir
    tar cf big.tar --sort=name dir
}

### the first reader takes one line only
seq 5 | ($MRUN bash -c 'read x; echo $x'; cat)

### each of several readers takes its part
seq 9 | ($MRUN bash -c 'read x; echo one $x'; read y; echo home $y; $MRUN bash -c 'read x; echo two $x'; $MRUN cat)

### compress in a pipe
#: setup: tarball
cat big.tar | $MRUN gzip -c | gunzip | cmp - big.tar; echo "${PIPESTATUS[@]}"

### compress and decompress on a node
#: setup: tarball
$MRUN gzip -c < big.tar | $MRUN gunzip | $MRUN cmp - big.tar; echo "${PIPESTATUS[@]}"

### a writer without end is ended by its reader
$MRUN yes | head -1; echo "${PIPESTATUS[@]}"
$MRUN sh -c 'while :; do echo again; done' | head -2; echo "${PIPESTATUS[@]}"
$MRUN cat /dev/zero | head -c 1000000 | wc -c; echo "${PIPESTATUS[@]}"

### a reader that does not read does not hold up the writer
seq 1000000 | $MRUN true; echo "${PIPESTATUS[@]}"
seq 1000000 | $MRUN head -1; echo "${PIPESTATUS[@]}"

### a loop over a list
#: setup: for i in 1 2 3 4 5; do echo "content $i" > "f $i"; echo "f $i"; done > list
while read f; do $MRUN cat "$f"; done < list

### a loop over a pipe
#: setup: for i in 1 2 3 4; do echo "content $i" > f$i; done
ls f* | while read f; do $MRUN cat $f; done; ls f* | while read f; do $MRUN gzip -n $f; done; ls

### a file read by several programs in turn
#: setup: seq 1000 > file
($MRUN head -c 10; cat) < file | md5sum
(head -c 10; $MRUN cat) < file | md5sum
($MRUN sed -u 3q; $MRUN sed -u 2q; tail -1) < file
($MRUN dd bs=1 count=7 status=none; $MRUN dd bs=5 count=1 status=none; $MRUN head -n 1) < file

### a log written by several programs in turn
($MRUN echo a; echo b; $MRUN echo c) > log; cat log
($MRUN echo d; echo e; $MRUN sh -c 'echo f; echo g >&2') >> log 2>&1; cat log
{ echo 1; $MRUN sh -c 'echo 2; echo 3'; echo 4; } > log; cat log

### make with its output in a log
#: setup: printf 'all: a b\n\t@echo done\n%%:\n\techo making $@ > $@; cat $@; cat none || true\n' > Makefile
$MRUN make > log 2>&1; cat log

### tar to a file
#: setup: tarball
$MRUN tar cf - --sort=name dir > x.tar; cmp x.tar big.tar; mkdir out; $MRUN tar xf - -C out < x.tar

### sort from file to file
#: setup: seq 50000 | shuf --random-source=/bin/sh > in
$MRUN sort < in > out; $MRUN sort -n < in | md5sum; $MRUN sort -c < out; echo $?

### both ways binary-clean
#: setup: awk 'BEGIN { for (i = 0; i < 256; i++) printf "%c", i }' > /dev/null; perl -e 'print map chr, 0 .. 255 for 1 .. 500' > bytes
$MRUN cat < bytes | cmp - bytes
cat bytes | $MRUN cat > out
cmp out bytes
cat bytes | $MRUN tee copy | cmp - bytes
$MRUN cat bytes | md5sum

### a conversation line by line
coproc $MRUN sed -u 's/^/got /'
for i in 1 2 3 4 5; do echo line $i >&${COPROC[1]}; read -r x <&${COPROC[0]}; echo "$x"; done
exec {COPROC[1]}>&-; wait $COPROC_PID; echo $?

### a calculator that is asked again and again
coproc $MRUN bc
for i in 3 33 333; do echo "$i * $i" >&${COPROC[1]}; read -r x <&${COPROC[0]}; echo "$x"; done
echo quit >&${COPROC[1]}; wait $COPROC_PID; echo $?

### the end of a slow input is seen
(echo a; sleep 0.1; echo b) | $MRUN cat; : | $MRUN cat; echo $?; printf 'no newline' | $MRUN cat

### what a program leaves behind keeps the pipe open
$MRUN sh -c '(sleep 0.3; echo late) & echo early' | cat; echo end

### a reader sees the end when mrun ends
x=$($MRUN echo captured)
echo "<$x>"
for i in 1 2 3; do $MRUN true | cat; done
echo "$($MRUN sh -c 'echo to stderr >&2; exit 3' 2>&1)"

### status of each part
$MRUN sh -c 'exit 3' | $MRUN sh -c 'cat; exit 4' | $MRUN sh -c 'cat; exit 5'
echo "${PIPESTATUS[@]}"
set -o pipefail; $MRUN false | $MRUN true; echo $?

### the two outputs stay apart
$MRUN sh -c 'echo out; echo err >&2; echo out2' 2> err > out
cat out err
$MRUN sh -c 'echo err >&2; echo out' 2>&1 >/dev/null | tr a-z A-Z

### outputs in order in one pipe
$MRUN sh -c 'for i in 1 2 3 4 5 6 7 8 9; do echo out $i; echo err $i >&2; done' 2>&1 | cat
$MRUN python3 -c 'import os
for i in range(300): os.write(1 + i % 2, b"%d\n" % i)' 2>&1 | md5sum

### many small writes
$MRUN sh -c 'i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i + 1)); done' | md5sum

### xargs and parallel runs
#: setup: for i in 1 2 3 4 5 6; do seq $i > f$i; done
ls f* | xargs -n 1 -P 3 $MRUN wc -l | sort -k2
find . -name 'f*' -print0 | sort -z | $MRUN xargs -0 md5sum

### many at once
#: times differ: f*
# They run at the same time.
for i in 1 2 3 4 5 6 7 8; do $MRUN sh -c "echo $i; echo $i > f$i" & done | sort; wait; cat f*

### compilers under make
#: setup: for i in 1 2 3 4; do echo "int f$i(void) { return $i; }" > f$i.c; done; printf 'lib.a: f1.o f2.o f3.o f4.o\n\t@ar rcD $@ $^\n%%.o: %%.c\n\t@$(CC) -c -o $@ $<\n' > Makefile
#: times differ: *.o
# Jobs run at the same time.
make -j3 CC="$MRUN gcc"; ar t lib.a; make -q CC="$MRUN gcc"; echo $?; touch f2.c; make -n CC=gcc

### one program reads what another writes
#: setup: mkfifo pipe
$MRUN sort -n < pipe > sorted & seq 100 -1 1 > pipe
wait
head -3 sorted
$MRUN seq 5 > pipe & $MRUN cat < pipe
wait

### process substitution
diff <($MRUN seq 5) <(seq 6)
$MRUN cat < <(seq 3)
seq 4 | $MRUN tee >(wc -l > count) > /dev/null
until [ -s count ]
do sleep 0.01
done
cat count

### input from a here document and a here string
$MRUN cat <<< "here string"; $MRUN tr a-z A-Z << END
a here document
END

### standard input and output are one file
#: setup: printf 'one\ntwo\nthree\n' > f
$MRUN sh -c 'read x; echo "saw $x" >&2; printf TWO' <> f 1<&0; cat f

### the middle of a pipeline is killed
seq 1000000 | $MRUN sh -c 'head -1; kill -9 $$' | cat; echo "${PIPESTATUS[@]}"

### dd with blocks of a pipe
(printf abc; sleep 0.1; printf defg) | $MRUN dd bs=10 status=none | od -c
seq 100000 | $MRUN dd bs=4k iflag=fullblock of=out status=none
md5sum < out

### compress to stdout and to a file at once
#: setup: tarball
$MRUN sh -c 'tee copy < big.tar | gzip -nc' > big.gz
cmp copy big.tar
gunzip -c big.gz | cmp - big.tar
