/* Threads that read the clock for a moment, make another one, and end. */
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static void *work(void *argument) {
  struct timespec now;
  pthread_t next;
  for (int n = 0; n < 2000; n++) clock_gettime(CLOCK_MONOTONIC, &now);
  pthread_create(&next, NULL, work, NULL);
  pthread_detach(next);
  return argument;
}

int main(void) {
  puts("ready");
  fflush(stdout);
  work(NULL);
  for (;;) pause();
}
