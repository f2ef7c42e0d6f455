"""Structures and plans of the capsule, against the kernel's headers and without a kernel."""

from __future__ import annotations

import ctypes

from stubs.abi.mount import mount_attr
from stubs.abi.sched import clone_args
from stubs.node.capsule.root import plan


def test_clone_args_is_that_of_the_kernel() -> None:
    assert ctypes.sizeof(clone_args) == 88  # CLONE_ARGS_SIZE_VER2
    assert (clone_args.exit_signal.offset, clone_args.set_tid.offset) == (32, 64)


def test_mount_attr_is_that_of_the_kernel() -> None:
    assert ctypes.sizeof(mount_attr) == 32  # MOUNT_ATTR_SIZE_VER0
    assert (mount_attr.attr_clr.offset, mount_attr.propagation.offset) == (8, 16)


def test_a_plan_can_be_read_before_it_is_done() -> None:
    lines = [step.describe() for step in plan(b"/mnt", 32768, full_map=False)]
    assert lines[0] == "mount -t proc proc /mnt/proc"
    assert "mount -o remount,ro /mnt/sys" in lines
    assert lines[-1] == "pivot_root /mnt"
