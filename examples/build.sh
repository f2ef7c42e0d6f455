#!/bin/sh
# Build elsewhere: make stays here, each compiler that it starts goes where it ends first.
#
#     ./build.sh                   makes a small project in a new folder and runs what came out
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

for name in alpha beta zeta delta; do
    echo "int $name(int x) { return x * 37 % 1013; }" > $name.c
done
cat > main.c <<'END'
#include <stdio.h>
int alpha(int), beta(int), zeta(int), delta(int);
int main(void) { printf("%d\n", alpha(beta(zeta(delta(7))))); return 0; }
END
cat > Makefile <<'END'
main: main.o alpha.o beta.o zeta.o delta.o
	$(CC) -o $@ $^
END

mrun make -s -j 4
./main
make main
