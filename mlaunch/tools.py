"""Well-known programs by name: what they are, as far as placement cares.

Tables and no policy. Names are those of executables without version or target triple (`gcc`, not
`x86_64-linux-gnu-gcc-12`), as `tool` returns them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def words(text: str) -> frozenset[str]:
    """Return the words of a table."""
    return frozenset(text.split())


# What they compile when the name of the source does not tell.
COMPILERS = {
    "gcc": "c", "cc": "c", "clang": "c", "tcc": "c", "icx": "c", "c89": "c", "c99": "c",
    "g++": "c++", "c++": "c++", "clang++": "c++", "icpx": "c++",
    "cc1": "c", "cc1plus": "c++", "cc1obj": "objc", "lto1": "lto", "cpp": "c", "nvcc": "c++",
    "f951": "fortran", "gfortran": "fortran", "flang": "fortran", "gnat1": "ada", "gdc": "d",
    "ldc2": "d", "dmd": "d", "ghc": "haskell", "ocamlopt": "ocaml", "ocamlc": "ocaml",
    "swiftc": "swift", "rustc": "rust", "javac": "java", "kotlinc": "kotlin", "compile": "go",
}  # fmt: skip
# The parts of a compiler that are always a compile, whatever the options.
COMPILER_PROPER = words("cc1 cc1plus cc1obj lto1 f951 gnat1")
ASSEMBLERS = words("as nasm yasm asm")
LINKERS = words("ld ld.bfd ld.gold ld.lld lld mold gold collect2 link")
BINARY_TOOLS = words("ar ranlib strip objcopy objdump nm readelf gcc-ar gcc-nm gcc-ranlib size")

SHELLS = words("sh bash dash ash zsh ksh mksh fish tcsh csh rbash")
INTERPRETERS = words(
    "python pypy perl ruby node nodejs php lua luajit tclsh wish Rscript R guile julia deno bun"
    " java octave"
)

# They start others and do little themselves.
STARTERS = words(
    "make gmake bmake remake ninja samu xargs parallel env nice ionice nohup timeout time setsid"
    " stdbuf chrt taskset flock run-parts entr script watch tmux screen ctest ccache sccache"
    " distcc icecc rpmbuild fakeroot faketime catchsegv xvfb-run dbus-run-session"
)
# Scripts that are starters, by the name of the file (whatever the interpreter).
STARTER_SCRIPTS = words(
    "configure config.status autogen.sh bootstrap meson scons waf tox nox dpkg-buildpackage debuild"
    " autoreconf parallel npm npx yarn pnpm run-clang-tidy run-clang-tidy.py lit prove"
    " ninja ctest cmake make mrun mlaunch mlaunch.mrun"
)
# Starters by sub-command.
STARTER_COMMANDS = {
    "go": words("build test install run vet generate"),
    "cargo": words("build b test t run r check c install doc bench clippy"),
    "cmake": words("--build configure"),
}

# They move or list files; the files are at home.
FILE_TOOLS = words(
    "rm rmdir mkdir mv cp ln install chmod chown chgrp touch truncate mktemp mkfifo mknod cat tac"
    " tee dd head tail ls dir du df find stat readlink realpath sync tar cpio rsync cmp split"
    " unlink pwd test [ file which locate updatedb.plocate"
)
# They are done in a moment.
SHORT_TOOLS = words(
    "echo printf true false tr expr dirname basename date uname id whoami groups sleep tty yes"
    " cut paste join comm fold fmt nl wc uniq seq printenv hostname arch nproc logname"
    " getconf pathchk stty tput clear reset od xxd hexdump strings tsort numfmt"
    " pkg-config pkgconf msgfmt gettext ldconfig ldd rev column getopt mcookie"
)
# Short as a rule; profiles know better.
SHORT_AT_FIRST = words("sed grep egrep fgrep awk gawk mawk nawk diff diff3 patch m4 bc dc jq")

COMPRESSORS = words(
    "gzip gunzip zcat pigz bzip2 bunzip2 bzcat pbzip2 lbzip2 xz unxz xzcat lzma pixz zstd unzstd"
    " zstdcat pzstd lz4 lzop brotli 7z 7za 7zr zip unzip lrzip zopfli compress"
)
# CPU seconds that one of them is thought to take.
LONG_TOOLS: dict[str, float] = {
    "sort": 1.0, "shuf": 0.5, "md5sum": 0.3, "sha1sum": 0.3, "sha256sum": 0.3, "sha512sum": 0.3,
    "b2sum": 0.3, "john": 60.0, "hashcat": 60.0, "ffmpeg": 30.0, "x264": 30.0, "x265": 60.0,
    "lame": 5.0, "oggenc": 5.0, "flac": 5.0, "opusenc": 5.0, "sox": 3.0, "convert": 2.0,
    "magick": 2.0, "mogrify": 2.0, "povray": 60.0, "blender": 60.0, "pdflatex": 2.0,
    "xelatex": 3.0, "lualatex": 3.0, "tex": 1.0, "latex": 1.5, "gs": 2.0, "doxygen": 5.0,
    "inkscape": 3.0, "optipng": 3.0, "pngcrush": 3.0, "cwebp": 1.0, "minisat": 30.0, "z3": 30.0,
    "factor": 0.5, "bison": 0.2, "flex": 0.1,
}  # fmt: skip

# They speak with the network: from a node it would be with the node's addresses.
NETWORK_CLIENTS = words(
    "curl wget ssh scp sftp ssh-add ssh-agent ssh-keygen ssh-keyscan ftp lftp telnet nc ncat netcat"
    " socat ping ping6 traceroute tracepath mtr dig host nslookup whois psql pg_dump pg_restore"
    " mysql mysqldump mariadb redis-cli mongosh mongo apt apt-get apt-cache dpkg dnf yum rpm apk"
    " pip pipx uv gem rclone aws gcloud kubectl helm git-remote-http git-remote-https"
    " git-remote-ftp git-remote-ftps git-fetch-pack git-send-pack git-daemon git-http-fetch"
    " svn"
)
NETWORK_COMMANDS = {
    "git": words("clone fetch pull push ls-remote remote submodule daemon send-email svn"),
    "openssl": words("s_client s_server s_time ocsp"),
    "go": words("get mod"),
    "cargo": words("fetch update publish search login"),
}

# They speak with this machine's kernel, processes or session.
LOCAL_TOOLS = words(
    "mount umount ip ifconfig route iptables nft tc ethtool ss netstat systemctl journalctl"
    " loginctl systemd-run dmesg ps top htop atop iotop pgrep pkill kill killall pidof lsof fuser"
    " free vmstat iostat uptime w who last nsenter unshare chroot docker podman runc crun bwrap"
    " gdb lldb strace ltrace perf rr bpftrace sudo su doas pkexec runuser newgrp"
    " login passwd chsh crontab at batch modprobe insmod rmmod lsmod lspci lsusb lsblk blkid"
    " fdisk parted mkfs losetup swapon swapoff sysctl hostnamectl timedatectl udevadm shutdown"
    " reboot poweroff halt mlaunch mrun mesg wall write xclip xsel xdg-open notify-send"
    " dbus-send gdbus busctl renice prlimit chattr setcap getcap flatpak snap"
    " gpg gpg2 gpg-agent gpgconf dirmngr"
)

# One executable, many programs: the one meant is argv[0], or else the first argument.
MULTI_CALL = words("busybox toybox coreutils")
# Tools whose first word that is no option says what they do; and their options that take a word.
SUB_COMMANDS: dict[str, frozenset[str]] = {
    "git": words("-C -c --git-dir --work-tree --namespace --exec-path --config-env"),
    "openssl": words(""),
    "go": words("-C"),
    "cargo": words("-C --config --color -Z"),
    "cmake": words(""),
    "svn": words(""),
    "hg": words("-R --cwd --config"),
    "dotnet": words(""),
    "docker": words("-H --context --config -l"),
    "podman": words(""),
    "kubectl": words("-n --namespace --context"),
    "systemctl": words(""),
    "7z": words(""),
    "llvm": words(""),
}

KNOWN = (
    frozenset(COMPILERS) | ASSEMBLERS | LINKERS | BINARY_TOOLS | SHELLS | INTERPRETERS | STARTERS
    | FILE_TOOLS | SHORT_TOOLS | SHORT_AT_FIRST | COMPRESSORS | frozenset(LONG_TOOLS)
    | NETWORK_CLIENTS | LOCAL_TOOLS | MULTI_CALL | frozenset(SUB_COMMANDS)
)  # fmt: skip

_VERSION = re.compile(r"-?\d+(\.\d+)*$")
# A target before the name of a tool: x86_64-linux-gnu-gcc, aarch64-none-elf-ld.
_TRIPLE = re.compile(r"^[a-z0-9_]+(-[a-z0-9_.]+){1,3}-(?=[a-z])")


@lru_cache(maxsize=4096)
def canonical(base: str) -> str:
    """Return the name of an executable without version and target, if that is a known one."""
    for name in (base, _VERSION.sub("", base)):
        if name in KNOWN:
            return name
        short = _TRIPLE.sub("", name)
        if short in KNOWN:
            return short
    return base


def tool(exe: str, argv: Sequence[str]) -> str:
    """Return the name of the program that `exe` is when it is called with `argv`."""
    name = canonical(exe.rsplit("/", 1)[-1])
    if name in MULTI_CALL and argv:
        called = canonical(argv[0].rsplit("/", 1)[-1])
        if called in MULTI_CALL and len(argv) > 1:
            called = argv[1]
        return called
    return name
