# Shells, and the scripts that are started through them.

script() { printf '#!/bin/sh\necho "$#" "$2"\nexit 9\n' > script; chmod +x script; }

### sh counts and exits
x=1; while [ $x -le 5 ]; do echo $x; x=$((x+1)); done; exit 3

### dash redirects and traps
dash -c '
trap "echo bye >> log" EXIT
exec 3> three; echo to three >&3; exec 3>&-
cat <<END > here
the number is $((6 * 7))
END
(cd / && pwd)
{ echo out; echo err >&2; } 2>&1 | sort
exit 7'

### bash arrays and substitutions
declare -A age=([ann]=31 [bob]=27); for n in ann bob; do echo "$n ${age[$n]}"; done
mapfile -t lines < <(seq 3); echo "${lines[@]/2/two}" "${#lines[@]}"
diff <(seq 3) <(seq 4); echo "diff says $?"
tr a-z A-Z <<< "here string"
printf '%q\n' "a b"$'\n'
false | true | (exit 4); echo "${PIPESTATUS[@]}"
set -o pipefail; false | true; echo $?
[[ abc =~ b(.) ]] && echo "${BASH_REMATCH[1]}"

### bash runs jobs in the background
#: times differ: part*
# The parts are written at once.
sleep 30 & job=$!; kill $job; wait $job; echo $?
(exit 5) & wait $!; echo $?
for i in 1 2 3; do (echo $i > part$i) & done; wait; cat part*
coproc cat; echo through coproc >&${COPROC[1]}; read -r x <&${COPROC[0]}; echo "$x"

### bash -i without a terminal has job control
#: replace: \[\d+\] \d+ => [job] pid
# It tells the pids of its jobs.
bash --norc -i -c 'set -m; sleep 30 & kill -STOP %1; wait %1; jobs; kill -CONT %1; kill %1; wait %1; echo $?' 2> /dev/null

### children are killed by each signal
#: replace: line \d+: +\d+ => line N: PID
# The shell tells their pids.
for s in HUP INT TERM KILL USR1 ABRT SEGV; do bash -c "kill -$s \$\$"; echo $?; done

### traps run in the order of signals
trap 'echo usr1' USR1; trap 'echo usr2' USR2; trap 'echo end' EXIT
kill -USR1 $$; kill -USR2 $$; trap '' TERM; kill -TERM $$; echo alive

### busybox runs its applets
#: setup: seq 9 > in
busybox sh -c 'busybox seq 5 | busybox tac; busybox md5sum in; busybox ls -l .. > /dev/null; exit 5'

### mrun of a static program
#: setup: seq 9 > in
$MRUN busybox sha1sum in; $MRUN busybox sh -c 'echo $0; exit 6' zero; echo $?

### a script with its interpreter named
#: setup: script
./script one 'two three'

### mrun of a script with its interpreter named
#: setup: script; cp script named-script
$MRUN ./script one 'two three'; echo $?; PATH=$PATH:$PWD; cd /; $MRUN named-script one two

### mrun of a script with an argument to its interpreter
#: setup: printf '#!/bin/sed -f\n3d\n' > delete-third; chmod +x delete-third
seq 5 | $MRUN ./delete-third; echo $?

### mrun of a script run by another script
#: setup: printf '#!/bin/sh\necho inner "$1" "$3"\n' > inner; printf '#!%s/inner -x\n' "$PWD" > outer; chmod +x inner outer
$MRUN ./outer a b; echo $?

### mrun of a script without interpreter
#: setup: printf 'echo "$#" "$2"\nexit 9\n' > script; chmod +x script
$MRUN ./script one 'two three'; echo $?

### a script without interpreter inside
#: setup: echo 'echo $#' > script; chmod +x script
./script one; echo $?; env ./script two three

### a script through env
#: setup: printf '#!/usr/bin/env -S python3 -B\nimport sys\nprint(sys.argv)\n' > script; chmod +x script
./script 1 2 3

### a descendant writes after its parent has ended
(sleep 0.2; echo late; echo late > file) & echo early

### a daemon leaves its session
setsid -w sh -c 'echo in; exit 6'; echo $?
setsid sh -c 'exec < /dev/null > /dev/null 2>&1; until [ -e go ]; do sleep 0.01; done; echo x > f; mv f done' &
touch go; until [ -e done ]; do sleep 0.01; done; cat done

### here documents of some size
cat <<< "$(seq 30000)" | md5sum

### a long command line
/bin/echo $(seq 20000) | md5sum
V=$(seq 20000) sh -c 'echo ${#V}'
/bin/echo $(seq 500000) 2>&1 | head -c 100

### a shell reads its script from stdin
#: stdin: echo from stdin\nread x\nthe next line\necho got $x\nexit 4\n
$MRUN sh

### bash restricted and posix
bash --posix -c 'echo $POSIXLY_CORRECT'; bash -r -c 'cd /'; echo $?

### a trap ends a shell with its own status
bash -c 'trap "echo caught; exit 42" TERM; kill $$; sleep 30'; echo $?
