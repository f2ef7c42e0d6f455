/* COLD MB of random numbers that stay, HOT MB of them that change, for SECONDS; checks itself. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec / 1e9;
}

static uint64_t x = 88172645463325252ULL;

static uint64_t next(void) {
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return x;
}

static uint64_t sum(uint64_t *words, size_t count) {
  uint64_t found = 0;
  for (size_t i = 0; i < count; i++) found += words[i];
  return found;
}

int main(int argc, char **argv) {
  size_t cold = (size_t)atoi(argv[1]) << 17, hot = (size_t)atoi(argv[2]) << 17;
  uint64_t *words = malloc(8 * (cold + hot)), *shadow = malloc(8 * hot), n = 0;
  for (size_t i = 0; i < cold + hot; i++) words[i] = next();
  memcpy(shadow, words + cold, 8 * hot);
  uint64_t wanted = sum(words, cold);
  char *passing = malloc(cold * 2);
  memset(passing, 7, cold * 2);
  puts("ready");
  fflush(stdout);
  double begun = now(), last = begun, gap = 0;
  while (last - begun < atof(argv[3])) {
    for (int k = 0; k < 1000; k++) {
      size_t i = next() % hot;
      words[cold + i] += n;
      shadow[i] += n++;
    }
    double time = now();
    if (time - last > gap) gap = time - last;
    last = time;
    /* What is given back to the kernel in between is to be zero when it comes again. */
    if (passing && time - begun > 0.6) {
      free(passing);
      passing = NULL;
    }
  }
  char *again = calloc(cold, 2);
  for (size_t i = 0; i < cold * 2; i++)
    if (again[i]) wanted++;
  printf("%s %s\n", sum(words, cold) == wanted ? "same" : "other",
         memcmp(words + cold, shadow, 8 * hot) ? "other" : "same");
  fprintf(stderr, "longest gap %.0f ms\n", gap * 1000);
  return 0;
}
