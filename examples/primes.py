#!/usr/bin/python3
"""Count primes in ranges, each range by a program of its own that runs wherever there is room.

./primes.py LIMIT            count all primes below LIMIT, in eight ranges
./primes.py FROM TO          count those in one range (what is started for each)
"""

import itertools
import subprocess
import sys


def is_prime(number: int) -> bool:
    """Try all divisors up to the square root."""
    divisor = 2
    while divisor * divisor <= number:
        if number % divisor == 0:
            return False
        divisor += 1
    return number > 1


def main() -> None:
    """Count, or have others count."""
    arguments = [int(word) for word in sys.argv[1:]]
    if len(arguments) == 2:
        print(sum(map(is_prime, range(*arguments))))
        return
    (limit,) = arguments
    edges = [limit * part // 8 for part in range(9)]
    counters = [
        subprocess.Popen(
            ["mrun", sys.executable, __file__, str(start), str(end)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for start, end in itertools.pairwise(edges)
    ]
    print(sum(int(counter.communicate()[0]) for counter in counters))


main()
