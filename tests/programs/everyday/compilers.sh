# Compilers, and what they make.

sources() {
    cat > answer.h <<'END'
int answer(void);
#define ANSWER 42
END
    cat > answer.c <<'END'
#include "answer.h"
int answer(void) { return ANSWER; }
END
    cat > main.c <<'END'
#include <stdio.h>
#include "answer.h"
int main(int argc, char **argv) { printf("%d %d %s\n", answer(), argc, argv[argc - 1]); return argc; }
END
}

makefile() {
    sources
printf 'prog: main.o answer.o\n\tgcc -o $@ $^\n%%.o: %%.c answer.h\n\tgcc -c -o $@ $<\nclean:\n\trm -f *.o prog\n' > Makefile
}

### gcc
#: setup: sources
gcc -O2 -Wall -o prog main.c answer.c
./prog a b; echo $?
gcc -M main.c | tail -1
gcc -E answer.c | tail -1
gcc -S -O1 answer.c
gcc -c answer.c
nm answer.o
size answer.o
gcc -x c - -o stdin < answer.c 2>&1 | grep -c main
gcc none.c; echo $?
strip prog
./prog

### a compiler that leaves its temporary file
# The name is one that the home view keeps on the node while it can.
rm -f /tmp/ccLeft01.s
$MRUN bash -c 'ls /tmp > list; set -C; echo text > /tmp/ccLeft01.s; rm list'; echo $?
cat /tmp/ccLeft01.s; rm /tmp/ccLeft01.s

### gcc warns and fails
printf 'int main(void) { int x; return y; }\n' > bad.c
gcc -Wall -c bad.c; echo $?
printf 'int f(void) { }\n' > warn.c
gcc -Wall -c warn.c; echo $?
gcc -o p warn.o 2>&1 | grep -c undefined

### static and shared libraries
#: setup: sources
gcc -c answer.c
ar rcsD libanswer.a answer.o
gcc -o with-a main.c -L. -lanswer
./with-a x
gcc -shared -fPIC -o libanswer.so answer.c
gcc -o with-so main.c ./libanswer.so
./with-so
gcc -o path main.c -L. -lanswer
./path; echo $?
LD_LIBRARY_PATH=. ./path
LD_PRELOAD=./libanswer.so ./with-a
ldd ./with-so | grep -c libanswer
rm libanswer.so
./with-so; echo $?

### a static program
#: setup: sources
gcc -static -O1 -o prog main.c answer.c
./prog static; echo $?
file prog | grep -o 'statically linked'

### mrun of a program that was just made
#: setup: sources
$MRUN gcc -o prog main.c answer.c && $MRUN ./prog one two; echo $?
sed -i s/42/43/ answer.h
$MRUN gcc -o prog main.c answer.c && $MRUN ./prog
./prog
$MRUN gcc -static -o prog main.c answer.c && $MRUN ./prog

### g++
cat > p.cpp <<'END'
#include <iostream>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>
int main() {
    std::map<std::string, int> m{{"b", 2}, {"a", 1}};
    for (auto &[k, v] : m) std::cout << k << v << "\n";
    try { throw std::runtime_error("thrown"); } catch (std::exception &e) { std::cerr << e.what() << std::endl; }
    std::vector<std::thread> ts; std::vector<int> out(4);
    for (int i = 0; i < 4; i++) ts.emplace_back([&out, i] { out[i] = i * i; });
    for (auto &t : ts) t.join();
    for (int o : out) std::cout << o << " ";
    std::string line; while (std::getline(std::cin, line)) std::cout << line.size() << "\n";
    return 3;
}
END
g++ -std=c++17 -O1 -pthread -o p p.cpp && seq 8 11 | ./p; echo $?

### make
#: setup: makefile
make
./prog
make
touch -d @1000000000 answer.h
make
echo '/* */' >> answer.c
make
make -n clean
make none; echo $?
make -q; echo $?
rm main.o
make -s
make clean
ls

### make with jobs
#: setup: for i in 1 2 3 4 5 6; do echo "int f$i(void) { return $i; }" > f$i.c; done; printf 'OBJ = $(patsubst %%.c,%%.o,$(sort $(wildcard *.c)))\nlib.a: $(OBJ)\n\t@ar rcD $@ $(OBJ)\n%%.o: %%.c\n\t@gcc -c -o $@ $<\n' > Makefile
#: times differ: *.o
# Jobs run at the same time.
make -j4
ar t lib.a
sleep 0.02
touch f3.c
make -n -j4 | sort
make -j4
make -q; echo $?
nm lib.a | grep -c ' T '

### make decides by the time of files
#: setup: printf 'b: a\n\tcp a b; echo made b\nc: b\n\tcp b c; echo made c\n' > Makefile; echo 1 > a
for round in 1 2 3 4 5; do make -s c; make -s c; sleep 0.02; echo $round >> a; make -q c; echo $?; make -s c; sleep 0.02; touch b; make -s c; done
touch -r a b c
make -s c
touch -d '1 hour ago' b c
make -s c

### cmake
#: setup: sources; printf 'cmake_minimum_required(VERSION 3.10)\nproject(p C)\nadd_library(answer STATIC answer.c)\nadd_executable(prog main.c)\ntarget_link_libraries(prog answer)\nenable_testing()\nadd_test(NAME runs COMMAND sh -c "./prog || true")\n' > CMakeLists.txt
#: contents differ: build/* build/*/* build/*/*/*
#: times differ: build* build/*
# CMake writes times and random names into its files; what matters is what it builds.
cmake -S . -B build > log 2>&1 || cat log
tail -1 log
rm log
cmake --build build 2>&1 | grep -o 'Built target.*'
./build/prog x
cmake --build build | grep -c Building
touch answer.c
cmake --build build | grep -o 'Building.*'
cd build
ctest 2>&1 | grep -o '100% tests passed.*'
find . | grep -v -e Temporary -e Tmp | sort | md5sum
rm -r CMakeFiles Testing

### go
#: setup: cp /home/alice/bin/hello-go .
./hello-go a b; echo $?

### mrun of a Go program
$MRUN /home/alice/bin/hello-go x; echo $?

### mrun of a static C program
$MRUN /home/alice/bin/hello-c x y; echo $?

### the assembler and the linker
printf '.globl _start\n_start: mov $60, %%eax\nmov $7, %%edi\nsyscall\n' > a.s
as -o a.o a.s
ld -o a a.o
./a; echo $?
objdump -d a | grep -c syscall
readelf -h a | grep Type

### a program that crashes
#: replace: line \d+: +\d+ => line N: PID
# The shell tells the pid of what was killed.
ulimit -c 0
printf 'int main(void) { *(volatile int *)0 = 1; }' > s.c
gcc -o s s.c
sh -c './s; echo $?' 2> /dev/null
sh -c 'ulimit -t 1; while :; do :; done' 2> /dev/null; echo $?
