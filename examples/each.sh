#!/bin/sh
# One program for each line of a list, as many at once as you like: each is placed on its own.
#
#     ./each.sh FOLDER       compresses each file of FOLDER, four at a time
set -eu

cd "${1:?usage: each.sh FOLDER}"
find . -type f ! -name '*.gz' -print0 | sort -z | xargs -0 -n 1 -P 4 mrun gzip -9n
find . -type f | sort
