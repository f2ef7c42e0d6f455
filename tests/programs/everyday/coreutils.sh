# GNU coreutils that make something out of bytes. The form of these files is in ../table.py.

# Text with repetitions, and a table of two columns in no order.
lines() {
    seq 500 | sed 's/.*/& line &/; s/5/five/' > lines
    seq 1 7 400 | awk '{print $1 % 13, $1}' > table
}

binary() { seq 20000 | gzip -n > binary; }

### cat
#: setup: lines; binary
cat -n lines - lines < table | tail -3
cat -A binary | head -c 200
cat lines none; echo $?

### sort
#: setup: lines
sort lines | md5sum
sort -rn table
sort -k1,1n -k2,2rn table
sort -u -t' ' -k1,1 table
sort -c table; echo $?

### sort larger than its buffer
#: setup: seq 60000 | shuf --random-source=/bin/sh > in
sort -S 200k -T . in -o out
sort -c out && md5sum < out

### sort onto its input
#: setup: lines
sort -r -o table table
cat table

### uniq
#: setup: lines
cut -d' ' -f1 table | sort | uniq -c | sort -k2n
cut -d' ' -f1 table | uniq -d

### tr
#: setup: lines
tr a-z A-Z < lines | head -3
tr -cd 0-9 < lines | wc -c
tr -s e < lines | tail -1
tr 'a' </dev/null

### cut and paste
#: setup: lines
cut -c2-5 lines | head -2
cut -d' ' -f2 --complement table | paste -s -d+
paste -d'|' lines table | head -3

### head and tail
#: setup: lines
head -n -490 lines
head -c 7 lines
tail -n +495 lines
tail -c 5 lines
head -n1 lines none table

### wc
#: setup: lines; binary
wc lines table binary
wc -L lines
cat lines | wc -lwc
wc -m < binary

### split
#: setup: lines; binary
split -l 100 lines part.
split -b 3k -d binary b
split -n r/3 table t
cat part.* | cmp - lines

### csplit
#: setup: lines
csplit -f x lines /100/ '{1}' /400/
csplit -s lines 900; echo $?

### checksums
#: setup: lines; binary
cksum binary
md5sum binary lines > sums
sha256sum lines >> /dev/null
md5sum -c sums
echo x >> lines
md5sum -c sums; echo $?
b2sum table
sum table
sha1sum < table

### tee
seq 3 | tee one two | tee -a three | wc -l
seq 4 | tee -a one three > /dev/null
seq 3 | tee /no/where; echo $?

### seq
seq 5
seq -w 8 11
seq 1 0.5 3
seq -s, 10 -3 1
seq x; echo $?

### join and comm
#: setup: printf '1 x\n2 y\n3 z\n' > a; printf '2 y\n3 q\n4 r\n' > b
join a b
join -a1 -a2 -e - -o 0,1.2,2.2 a b
comm a b
comm -12 a b

### tsort
printf 'a b\nb c\nc a\nd a\n' | tsort; echo $?
printf 'a b\nb c\n' | tsort

### dd
#: setup: lines; binary
#: contents differ: said
# The last line of what it says is a speed.
dd if=binary of=out bs=512 skip=3 seek=2 count=4 status=none
dd if=lines of=out conv=notrunc,ucase bs=100 count=2 status=none
dd if=/dev/zero bs=1k count=3 2> said | wc -c
head -2 said
printf tail | dd of=out oflag=append conv=notrunc status=none
seq 2000 | dd bs=1M iflag=fullblock 2>/dev/null | wc -c

### od and base64
#: setup: binary; lines
od -An -tx1 binary | head -3
od -c binary | tail -2
base64 binary | tail -1
base64 binary | base64 -d | cmp - binary
base32 < table | head -1

### tac, rev, nl, fold, fmt, pr, expand
#: setup: lines
tac table | head -2
nl -ba lines | tail -1
head -3 lines | fold -w 4
head -20 lines | fmt -w 40
head -5 table | pr -t -2
printf 'a\tb\n' | expand -t 4 | unexpand -a -t 4 | od -c
rev table | head -2

### shuf and numfmt
#: setup: lines
shuf --random-source=lines -i 1-20 | paste -s -d' '
numfmt --to=iec 1048576 123456
factor 1234567890
expr 6 '*' 7
expr 0; echo $?

### printf and echo
/usr/bin/printf '%05d|%x|%s|%b\n' 42 255 str 'a\tb'
/bin/echo -e 'a\x41\n\c' no
/usr/bin/printf %d x; echo $?

### date
#: setup: touch -d @1600000000.5 f
date -u -d @1700000000
TZ=Europe/Berlin date -d '2024-03-31 01:30 UTC' +%FT%T%z
TZ=Asia/Kolkata date -r f +%c
date -d nonsense; echo $?

### test
#: setup: touch f; mkdir d; ln -s f l; touch -d @1 old
test -f f && test -d d && test -L l && test -x d && test f -nt old && test ! -s f; echo $?
[ -w /etc/passwd ]; echo $?
[ -r /etc/shadow ]; echo $?
[ -O f ]; echo $?
test -ef; echo $?
[ l -ef f ]; echo $?

### env
env -i A=1 B='x y' /usr/bin/env
env -u HOME sh -c 'echo ${HOME-none}'
env -C / pwd
env none; echo $?

### xargs
seq 20 | xargs -n 6 echo
printf 'a b\0c\nd\0' | xargs -0 -I{} echo '<{}>'
seq 4 | xargs -P 2 -n 1 sh -c 'exit $0'; echo $?
echo 'a b' | xargs -t false; echo $?

### timeout
#: replace: line \d+: +\d+ => line N: PID
# The shell tells the pid of what was killed.
timeout 0.1 sleep 9; echo $?
timeout -s KILL 0.1 sleep 9; echo $?
timeout 9 sh -c 'exit 3'; echo $?
timeout --preserve-status 0.1 sleep 9; echo $?

### nice and nohup
nice -n 5 nice
nice -n 3 sh -c 'nice -n 4 nice'
nohup sh -c 'echo kept; kill -HUP $$; echo alive'
nice -n -5 true; echo $?

### sleep and yes
sleep 0.05 0.05s
yes 'a line' | head -2
sleep x; echo $?

### stdbuf and unbuffered reads
seq 3 | stdbuf -oL cat
seq 5 | (head -c 2 > /dev/null; cat)
