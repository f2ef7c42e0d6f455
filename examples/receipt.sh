#!/bin/sh
# Ask where a program ran and what that cost.
#
#     ./receipt.sh PROGRAM ARGS... its output, then a line from the receipt on standard error
set -eu

receipt=$(mktemp)
trap 'rm -f "$receipt"' EXIT
mrun --stats "$receipt" "$@"
python3 - "$receipt" >&2 <<'END'
import json, sys
receipt = json.load(open(sys.argv[1]))
for body in receipt["bodies"]:
    print(f"{body['argv'][0]} ran on {body['node']}, {body['cpu_s']:.2f} s of CPU: {body['why']}")
END
