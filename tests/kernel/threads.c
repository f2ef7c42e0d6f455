/* Threads that compute in turns, one that sleeps, timers, an alternate stack, a pending signal. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS = 3, ROUNDS = 60 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static long total;
static int turn, interrupted;
static volatile int alarms, on_alternate_stack;
static __thread long own;

static void on_signal(int signo) {
  stack_t stack;
  sigaltstack(NULL, &stack);
  if (stack.ss_flags & SS_ONSTACK) on_alternate_stack = 1;
  alarms++;
}

static void *work(void *argument) {
  long id = (long)argument;
  unsigned long x = id + 1;
  own = id;
  for (int round = 0; round < ROUNDS; round++) {
    for (long i = 0; i < 1500000; i++) x = x * 6364136223846793005UL + 1442695040888963407UL;
    pthread_mutex_lock(&mutex);
    while (turn % WORKERS != id) pthread_cond_wait(&changed, &mutex);
    total += x & 0xffff;
    turn++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
    if (own != id) abort();
  }
  return NULL;
}

static void *sleep_often(void *argument) {
  /* A signal to the process may be handled by any thread; this one counts what else ends sleep. */
  sigset_t set;
  sigfillset(&set);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  for (int i = 0; i < 20; i++) {
    struct timespec time = {0, 100000000}, rest;
    if (nanosleep(&time, &rest)) interrupted++;
  }
  return NULL;
}

int main(void) {
  stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
  sigaltstack(&stack, NULL);
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_RESTART};
  sigaction(SIGALRM, &action, NULL);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  sigprocmask(SIG_BLOCK, &set, NULL);
  sigqueue(getpid(), SIGUSR2, (union sigval){.sival_int = 77});
  /* The first is deleted, so that the number of the second is not that of a first one. */
  timer_t other, timer;
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
  timer_create(CLOCK_MONOTONIC, &event, &other);
  timer_create(CLOCK_MONOTONIC, &event, &timer);
  timer_delete(other);
  struct itimerspec times = {{0, 50000000}, {0, 50000000}};
  timer_settime(timer, 0, &times, NULL);
  puts("ready");
  fflush(stdout);
  pthread_t workers[WORKERS], sleeper;
  for (long id = 0; id < WORKERS; id++) pthread_create(&workers[id], NULL, work, (void *)id);
  pthread_create(&sleeper, NULL, sleep_often, NULL);
  for (int id = 0; id < WORKERS; id++) pthread_join(workers[id], NULL);
  pthread_join(sleeper, NULL);
  siginfo_t info;
  int signo = sigwaitinfo(&set, &info);
  timer_gettime(timer, &times);
  printf("total %ld turns %d interrupted %d alarms %d alternate %d\n", total, turn, interrupted,
         alarms > 5, on_alternate_stack);
  printf("signal %d value %d interval %ld\n", signo == SIGUSR2, info.si_value.sival_int,
         times.it_interval.tv_nsec);
  return 0;
}
