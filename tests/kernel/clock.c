/* Reads the clock all the time, for two seconds of the processor: nearly always in the vDSO. */
#include <stdio.h>
#include <time.h>

int main(void) {
  struct timespec now, before = {0};
  int backwards = 0;

  puts("ready");
  fflush(stdout);
  do {
    for (int n = 0; n < 100000; n++) {
      clock_gettime(CLOCK_MONOTONIC, &now);
      backwards += now.tv_sec < before.tv_sec;
      before = now;
    }
  } while (clock() < 2 * CLOCKS_PER_SEC);
  printf("%d\n", backwards);
  return 0;
}
