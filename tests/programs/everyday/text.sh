# find, grep, sed, awk, diff and their kin.

# Text with repetitions, and a table of two columns in no order.
lines() {
    seq 500 | sed 's/.*/& line &/; s/5/five/' > lines
    seq 1 7 400 | awk '{print $1 % 13, $1}' > table
}

tree() {
    mkdir -p t/a/b t/c
    seq 10 > t/a/ten
    seq 1000 > t/a/b/many
    : > t/c/empty
    ln -s ../a t/c/link
    ln t/a/ten t/c/hard
    chmod 600 t/a/b/many
    chmod 755 t/c/empty
    touch -d @1500000000 t/a/ten
    touch -d @1600000000 t/c/empty
}

versions() {
    mkdir old new
    seq 40 > old/f
    sed '5d; 20s/$/ changed/; 30a added' old/f > new/f
    echo same | tee old/s > new/s
    echo only > old/gone
    echo only > new/here
    printf 'no newline' > new/n
    echo x > old/n
    touch -d @1600000000 old/* new/*
}

### find
#: setup: tree
find t | sort
find t -type f -size +1k
find t -perm 755 | sort
find t -newer t/a/ten -type f | sort
find t -links 2 -type f | sort
find -L t -name many | sort
find t -samefile t/a/ten | sort
find none; echo $?

### find acts
#: setup: tree
find t -type f -exec wc -c {} + | tail -1
find t -name ten -execdir pwd \; > /dev/null
find t -name 'e*' -delete
find t -printf '%P %y %s %m %n %l\n' | grep -v ' d ' | sort
find t -empty
find t -type f -ok true {} \; < /dev/null 2> /dev/null

### find in a large tree
find /usr/share/zoneinfo /usr/include | sort | md5sum
find /usr/share/perl* -type f -name '*.pm' -size +20k | wc -l

### grep
#: setup: lines; tree; printf '42\n77\n' > pats
grep -c five lines
grep -n '^9[0-9] ' lines | head -3
grep -vE 'line|x' lines; echo $?
grep -oP '(?<=line )\d*9$' lines | paste -s -d,
grep -rl 1000 t
grep -rn five t
grep x none; echo $?
grep -z a lines | wc -c
grep -F -f pats lines | wc -l
grep -B1 -A1 -m1 77 lines

### grep of binary
grep -c a /bin/ls > /dev/null
grep root /bin/ls
grep -ac ELF /bin/true
grep -r --include='*.h' -l sys_siglist /usr/include/string.h /usr/include/linux | sort | head

### sed
#: setup: lines
sed -n '3p;$=' lines
sed 's/line/LINE/2;s/e$/E/' lines | md5sum
sed -E 's/(.)(.)/\2\1/' lines | head -2
sed '1!G;h;$!d' lines | head -1
sed -n '/^10 /,/^12 /{=;p}' lines
sed 5q lines | sed '$d'
sed '/x/w found' lines > /dev/null
sed p none; echo $?

### sed in place
#: setup: lines
chmod 640 lines
ln lines linked
sed -i.bak -e 's/line/LINE/' lines
sed -i '1,490d' linked
stat -c '%n %a %h' *
cat linked

### awk
#: setup: lines
awk '{s += $1} END {printf "%d %.3f\n", s, s / NR}' lines
awk -F' ' 'NR % 100 == 0 {print $NF; print > "hundred" NR}' lines
awk 'BEGIN {while (("seq 3" | getline x) > 0) print "got", x; close("seq 3"); "pwd" | getline d; print length(d) > 0; system("echo from system; exit 3"); print ENVIRON["HOME"]; exit 4}'; echo $?
awk '{print | "sort -n | tail -1"}' lines
awk 'BEGIN {print toupper(substr("abcdef", 2, 3)), index("foobar", "bar"), split("a:b:c", p, ":"), p[3]}'

### diff
#: setup: versions
diff -r old new; echo $?
diff -u old/f new/f
diff -qr old new
diff -y -W 40 old/f new/f | head -6
diff --brief old/s new/s; echo $?
diff none old/f; echo $?

### patch
#: setup: versions
diff -ruN old new > p
patch -d old -p1 < p
diff -r old new; echo $?
patch -R -d old -p1 < p > /dev/null
cat old/n
patch -d new -p1 --dry-run -f < p; echo $?

### cmp and diff3
#: setup: versions
cmp old/f new/f; echo $?
cmp -l old/f new/f | head -3
cmp -s old/s new/s; echo $?
diff3 -m old/f new/f old/f | md5sum
cmp old/f none; echo $?

### ed and vim in scripts
#: setup: lines
printf '1,2d\n$a\nlast\n.\nw\nq\n' | ed lines
vim -N -u NONE -i NONE -n -es -c '%s/line/LINE/' -c 'wq' lines < /dev/null
head -2 lines
tail -2 lines

### less and file as filters
#: setup: lines; tree
less lines | md5sum
file -b lines /bin/sh | head -1
file -b --mime-type lines t/c/link t/c/empty t none

### column, look and iconv
#: setup: lines
head -3 lines | column -t
printf 'caf\xe9\n' | iconv -f latin1 -t utf8
printf '\xff' | iconv -f utf8 -t latin1; echo $?
printf 'é' | wc -m

### strings and hexdump
#: setup: lines
printf 'ab\0some words\0\1\2' | strings
hexdump -C lines | head -2
xxd lines | tail -1
xxd -p lines | xxd -r -p | cmp - lines
