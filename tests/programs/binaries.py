"""Programs that no Debian package has: static ones, and ones with set-user-ID bits.

They are compiled in the home of the test cluster, once for each cluster.
"""

from tests.cluster import Host

BIN = "/home/alice/bin"

HELLO_C = r"""
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
    FILE *file = fopen("made", "w");
    for (int i = 0; i < 1000; i++) fprintf(file, "%d\n", i);
    if (fclose(file)) return 1;
    printf("%d %s %s\n", argc, argv[argc - 1], getenv("USER"));
    return 3;
}
"""

HELLO_GO = r"""
package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
)

func main() {
	var wait sync.WaitGroup
	sums := make([]int, 50)
	for i := range sums {
		wait.Add(1)
		go func(i int) {
			defer wait.Done()
			for j := 0; j < 10000; j++ {
				sums[i] += i
			}
		}(i)
	}
	wait.Wait()
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGUSR1)
	syscall.Kill(os.Getpid(), syscall.SIGUSR1)
	child, err := exec.Command("tr", "a-z", "A-Z", "--help").Output()
	fmt.Println(len(os.Args), os.Args[1:], sums[49], <-caught, len(child), err)
	os.WriteFile("made", []byte("by go\n"), 0o640)
	names, _ := os.ReadDir("/etc")
	_, missing := os.Stat("missing")
	fmt.Println(len(names), missing)
	os.Exit(4)
}
"""

# Says under whose rights it runs.
EFFECTIVE_C = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <unistd.h>
int main(void) {
    printf("%d %d %d %d\n", getuid(), geteuid(), getgid(), getegid());
    return 5;
}
"""

# Sends itself the signal whose number it is given.
DIE_C = r"""
#include <signal.h>
#include <stdlib.h>
int main(int argc, char **argv) {
    raise(atoi(argv[1]));
    return 99;
}
"""


def install_binaries(home: Host) -> None:
    """Compile all of them; raise CalledProcessError if a compiler fails or is not there."""
    home.run(("mkdir", "-p", BIN), check=True)
    for name, source in (("hello", HELLO_C), ("effective", EFFECTIVE_C), ("die", DIE_C)):
        home.write(f"{BIN}/{name}.c", source.encode())
    home.write(f"{BIN}/hello.go", HELLO_GO.encode())
    script = """
        gcc -static -O1 -o hello-c hello.c
        gcc -o effective effective.c
        gcc -o die die.c
        cp effective own-setuid
        cp effective effective-group
        CGO_ENABLED=0 GOCACHE=/tmp/go-cache GOFLAGS=-mod=mod go build -o hello-go hello.go
    """
    home.run(("sh", "-ec", script), cwd=BIN, check=True, timeout=300)
    rights = """
        chown root effective
        chmod 4755 effective
        chown :bob effective-group
        chmod 2755 effective-group
    """
    home.run(("sh", "-ec", rights), cwd=BIN, user="root", check=True)
