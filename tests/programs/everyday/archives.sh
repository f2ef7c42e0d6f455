# tar and compressors.

tree() {
    mkdir -p t/a/b t/c
    seq 10 > t/a/ten
    seq 40000 > t/a/b/many
    : > t/c/empty
    ln -s ../a t/c/link
    ln t/a/ten t/c/hard
    mkfifo t/c/fifo
    chmod 600 t/a/b/many
    chmod 4755 t/c/empty
    find t -exec touch -h -d @1600000000.25 {} +
}

data() {
    { seq 60000; cat /bin/bash; head -c 100000 /dev/zero; } > data
    touch -d @1600000000 data
    chmod 640 data
}

### tar
#: setup: tree
tar cf x.tar --sort=name t
md5sum < x.tar
tar tvf x.tar
mkdir out
tar xf x.tar -C out
tar df x.tar; echo $?
tar df x.tar -C out; echo $?
tar --delete -f x.tar t/a/ten
tar rf x.tar t/a/ten
tar tf x.tar | tail -2
tar xf x.tar -O t/a/ten
tar xf none; echo $?

### tar through compressors
#: setup: tree
for z in gzip bzip2 xz zstd; do tar -I $z -cf t.$z --sort=name t; tar tf t.$z | md5sum; mkdir $z; tar xf t.$z -C $z; done
tar czf - t | tar tzf - | wc -l
gunzip -c t.gzip | md5sum

### tar with selections
#: setup: tree
#: contents differ: n.tar
# An incremental archive holds the times of status changes.
tar cf x.tar --exclude='*.o' --exclude=many --transform='s,^t,u,' t
tar tf x.tar | sort
find t -type f -print0 | sort -z | tar cf y.tar --null -T -
tar xf y.tar --strip-components=2 -C .
tar cf n.tar -g snapshot t/a
rm snapshot
tar xkf y.tar; echo $?

### tar of a long name and a sparse file
N=$(printf '%0150d' 0)
mkdir -p $N/$N
echo x > $N/$N/$N
truncate -s 3M sparse
echo end >> sparse
touch -d @1600000000 sparse
tar cSf x.tar --mtime=@1600000000 sparse $N
tar tf x.tar | wc -c
mkdir o
tar xf x.tar -C o
cmp sparse o/sparse

### gzip
#: setup: data
gzip -k data
gzip -l data.gz
gzip -t data.gz
zcat data.gz | cmp - data
gzip -9c data > nine
gzip -1 < data > one
gzip data.gz; echo $?
cp data d2
touch -r data d2
gzip d2
gunzip d2
zgrep -c 99 data.gz
echo x | gunzip; echo $?
ls

### bzip2
#: setup: data
bzip2 -k data
bzip2 -t data.bz2
bzcat data.bz2 | cmp - data
bzip2 -1 < data | wc -c
bunzip2 -f data.bz2
ls
bzip2 none; echo $?

### xz
#: setup: data
xz -k -1 data
xz -t data.xz
xz --robot -l data.xz
xzcat data.xz | cmp - data
xz -T2 -0 < data > two
unxz < two | md5sum
xz --format=lzma -0 -k data
xz -d < /dev/null; echo $?
xz -0 data
ls

### zstd
#: setup: data
zstd -q -k data
zstd -q -t data.zst
zstdcat data.zst | cmp - data
zstd -q -T2 -3 -c data | wc -c
zstd -q --rm -19 data -o s.zst
ls
unzstd -q s.zst
zstd -q -d none; echo $?
zstd -q --train -r . 2> /dev/null; echo $?

### zip
#: setup: tree; data; rm t/c/fifo; touch -d @1600000000 t/c
TZ=UTC zip -qrX x.zip t data
unzip -l x.zip
unzip -q x.zip -d out
zip -q -d x.zip data
unzip -tq x.zip
zip -qj - data | wc -c
unzip -p x.zip t/a/ten | head -1
unzip none; echo $?
zip -q y.zip none 2>&1; echo $?

### ar
#: setup: seq 3 > a; seq 4 > b
ar rcD x.a a b; ar t x.a; ar p x.a b; ar dD x.a a; ar xo x.a; ar t x.a; ar t none; echo $?
