import os
import shutil
import subprocess
from pathlib import Path
from struct import Struct

import pytest

from stubs.abi import fuse
from stubs.abi.fuseopens import Station

# include/uapi/linux/fuse.h: what precedes the variable part. For setxattr without its extension.
SIZES = {
    "fuse_in_header": 40,
    "fuse_out_header": 16,
    "fuse_attr": 88,
    "fuse_entry_out": 40,
    "fuse_attr_out": 16,
    "fuse_init_in": 20,
    "fuse_init_out": 64,
    "fuse_setattr_in": 88,
    "fuse_create_in": 16,
    "fuse_open_out": 16,
    "fuse_release_in": 24,
    "fuse_flush_in": 24,
    "fuse_read_in": 40,
    "fuse_write_in": 40,
    "fuse_setxattr_in": 8,
    "fuse_lk_in": 48,
    "fuse_lk_out": 24,
    "fuse_fallocate_in": 32,
    "fuse_lseek_in": 24,
    "fuse_statfs_out": 80,
    "fuse_dirent": 24,
    "fuse_notify_inval_inode_out": 24,
    "fuse_notify_inval_entry_out": 16,
    "fuse_notify_delete_out": 24,
}

# Ours end before a member that travels by itself, or before an extension.
SHORTER = {"fuse_entry_out": 88, "fuse_attr_out": 88, "fuse_setxattr_in": 8, "fuse_init_in": 44}


def test_structs_have_the_sizes_of_the_header() -> None:
    assert {name: getattr(fuse, name).size for name in SIZES} == SIZES


def test_structs_and_numbers_agree_with_the_compiler(tmp_path: Path) -> None:
    if shutil.which("cc") is None or not Path("/usr/include/linux/fuse.h").exists():
        pytest.skip("needs cc and the kernel's headers")
    header = Path("/usr/include/linux/fuse.h").read_text()
    structs = [name for name in vars(fuse) if isinstance(getattr(fuse, name), Struct)]
    numbers = [
        name
        for name, value in vars(fuse).items()
        if isinstance(value, int) and name.isupper() and name in header
    ]
    lines = [f'printf("{name} %zu\\n", sizeof(struct {name}));' for name in structs]
    lines += [f'printf("{name} %llu\\n", (unsigned long long){name});' for name in numbers]
    source = tmp_path / "sizes.c"
    source.write_text(
        "#include <stdio.h>\n#include <linux/fuse.h>\nint main(void) {\n"
        + "\n".join(lines)
        + "\nreturn 0; }\n"
    )
    program = tmp_path / "sizes"
    subprocess.run(["cc", "-o", program, source], check=True)
    out = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    found = {name: int(number) for name, number in map(str.split, out.splitlines())}
    ours = {name: getattr(fuse, name).size + SHORTER.get(name, 0) for name in structs}
    ours |= {name: getattr(fuse, name) for name in numbers}
    ours["FUSE_KERNEL_MINOR_VERSION"] = found["FUSE_KERNEL_MINOR_VERSION"]
    assert found == ours
    assert len(structs) > 30
    assert len(numbers) > 80


def test_the_machine_code_finds_what_it_works_on() -> None:
    # These numbers are in the code, as displacements from rbx.
    places = {
        "device": 0,
        "room": 4,
        "buffer": 8,
        "nodes": 16,
        "node_mask": 24,
        "pids": 32,
        "pid_mask": 40,
        "poll_device": 48,
        "poll_other": 56,
        "timeout": 64,
        "length": 72,
        "unique": 80,
        "file_handle": 88,
        "opens": 104,
        "releases": 112,
    }
    assert {name: getattr(Station, name).offset for name in places} == places
    assert (fuse.FUSE_OPEN, fuse.FUSE_RELEASE, fuse.FUSE_RELEASE_FLOCK_UNLOCK) == (14, 18, 2)
    assert os.O_ACCMODE | os.O_TRUNC | 0x20 == 0x223  # FMODE_EXEC
