"""A make project of our own: small enough to be built a hundred times, with what trips builds up.

Headers that a script generates, sub-makes that share the jobserver, dependencies that gcc writes
and make includes, an archive, and a program whose output tells which header each object has seen.
"""

import os

PARTS = 20
HEADERS = 20  # part i sees header i % HEADERS

MAKEFILE = """\
export CFLAGS := -O2 -g0 -I../include -I../generated

all: app

generated/version.h: version.txt generate.sh
\tsh generate.sh version.txt $@

lib: generated/version.h
\t$(MAKE) -C lib

app: lib
\t$(MAKE) -C app

check: app
\t./app/app > check.out
\tcmp check.out expected.out

clean:
\t$(MAKE) -C lib clean
\t$(MAKE) -C app clean
\trm -rf generated check.out

.PHONY: all lib app check clean
"""

LIB_MAKEFILE = """\
OBJECTS := $(patsubst %.c,%.o,$(sort $(wildcard *.c)))

libparts.a: $(OBJECTS)
\trm -f $@
\t$(AR) crD $@ $^

%.o: %.c
\t$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<

clean:
\trm -f *.o *.d libparts.a

-include $(OBJECTS:.o=.d)
"""

APP_MAKEFILE = """\
app: main.o ../lib/libparts.a
\t$(CC) -o $@ $^

%.o: %.c
\t$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<

clean:
\trm -f *.o *.d app

-include main.d
"""

GENERATE = """\
# Through a temporary name, as such scripts do: a half-written header must not look finished.
mkdir -p "${2%/*}"
{ echo '#pragma once'; echo "#define VERSION $(cat "$1")"; } > "$2.new"
mv "$2.new" "$2"
"""

# Several tenths of a second for the compiler, so that it is worth sending away.
PART = """\
#include <stdio.h>
#include "common.h"
#include "header{header}.h"
#include "version.h"
#define BODY(n) __attribute__((used)) static double body##n(const double *v, int k) {{ \\
  double s = n; \\
  for (int i = 0; i < k; i++) {{ s += v[i] * (n + 1); if (s > 1e9) s -= v[k - i - 1]; }} \\
  for (int i = 0; i < k; i++) for (int j = 0; j < i; j++) s += v[i] * v[j] / (n + 2.0); \\
  return s; }}
#define TEN(n) BODY(n##0) BODY(n##1) BODY(n##2) BODY(n##3) BODY(n##4) \\
  BODY(n##5) BODY(n##6) BODY(n##7) BODY(n##8) BODY(n##9)
TEN(1) TEN(2) TEN(3) TEN(4)
double sum{number}(const double *v, int k) {{ return body10(v, k) + body25(v, k) + body33(v, k)
  + body11(v, k) + body22(v, k) + body40(v, k) + body17(v, k) + body29(v, k); }}
void part{number}(void) {{ printf("{number} %d %d\\n", HEADER{header}, VERSION); }}
"""

MAIN = (
    '#include "common.h"\n'
    + "".join(f"void part{number}(void);\n" for number in range(PARTS))
    + "int main(void) {\n"
    + "".join(f"  part{number}();\n" for number in range(PARTS))
    + "  return COMMON;\n}\n"
)


def header(number: int, value: int) -> str:
    """Return the text of a header that defines `value`."""
    return f"#pragma once\n#define HEADER{number} {value}\n"


def output(values: dict[int, int], version: int) -> str:
    """Return what the program prints when every object has seen these headers."""
    rows = (f"{part} {values[part % HEADERS]} {version}\n" for part in range(PARTS))
    return "".join(rows)


def files() -> dict[str, str]:
    """Return the project: text by path."""
    tree = {
        "Makefile": MAKEFILE,
        "lib/Makefile": LIB_MAKEFILE,
        "app/Makefile": APP_MAKEFILE,
        "app/main.c": MAIN,
        "generate.sh": GENERATE,
        "version.txt": "1\n",
        "include/common.h": "#pragma once\n#define COMMON 0\n",
        "expected.out": output(dict.fromkeys(range(HEADERS), 0), 1),
    }
    tree |= {f"include/header{n}.h": header(n, 0) for n in range(HEADERS)}
    tree |= {f"lib/part{n:02}.c": PART.format(number=n, header=n % HEADERS) for n in range(PARTS)}
    return tree


def write(path: str) -> None:
    """Write the project into a directory."""
    for name, text in files().items():
        os.makedirs(os.path.dirname(f"{path}/{name}"), exist_ok=True)
        with open(f"{path}/{name}", "w") as file:
            file.write(text)
