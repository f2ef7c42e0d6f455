/* One system call that blocks, named by the argument; prints what it returned. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long made(const char *name) {
  struct timespec time = {1, 500000000};
  char byte;
  if (!strcmp(name, "read")) return syscall(SYS_read, 0, &byte, 1);
  if (!strcmp(name, "poll")) {
    struct pollfd end = {0, POLLIN, 0};
    return syscall(SYS_poll, &end, 1, 60000);
  }
  if (!strcmp(name, "poll-timeout")) return syscall(SYS_poll, NULL, 0, 1500);
  if (!strcmp(name, "nanosleep")) return syscall(SYS_nanosleep, &time, NULL);
  if (!strcmp(name, "nanosleep-rest")) return syscall(SYS_nanosleep, &time, &time);
  if (!strcmp(name, "clock_nanosleep")) {
    clock_gettime(CLOCK_MONOTONIC, &time);
    time.tv_sec += 2;
    return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
  }
  if (!strcmp(name, "futex")) {
    static int word;
    return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &time, NULL, 0);
  }
  if (!strcmp(name, "wait4")) {
    int pid = fork();
    if (!pid) _exit(syscall(SYS_read, 0, &byte, 1) + 6);
    int status;
    long found = syscall(SYS_wait4, pid, &status, 0, NULL);
    return found == pid ? WEXITSTATUS(status) : found;
  }
  if (!strcmp(name, "sigtimedwait")) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return syscall(SYS_rt_sigtimedwait, &set, NULL, &time, 8);
  }
  int epoll = epoll_create1(0);
  struct epoll_event event = {EPOLLIN, {.u64 = 5}};
  if (!strcmp(name, "epoll_wait")) epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &event);
  return syscall(SYS_epoll_wait, epoll, &event, 1, strcmp(name, "epoll_wait") ? 1500 : 60000);
}

int main(int argc, char **argv) {
  write(1, "ready\n", 6);
  long result = made(argv[argc - 1]);
  printf("%s %ld %s\n", argv[argc - 1], result, result < 0 ? strerror(errno) : "");
  return 0;
}
