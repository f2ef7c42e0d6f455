#!/bin/sh
# The most frequent words of some text, in a pipeline of which the costly parts run elsewhere.
#
#     ./words.sh < TEXT
set -eu

mrun tr -cs A-Za-z '\n' | tr A-Z a-z | mrun sort | uniq -c | mrun sort -k1,1nr -k2 | head -n 10
