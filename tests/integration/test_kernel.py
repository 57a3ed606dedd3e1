#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The sandboxed device under Debian's 6.1 kernel: a part of these tests runs in a guest (qemu/check-kernel, which runs
all of them in `make check-kernel`). VTPM_TEST_GUEST=skip skips it."""
import os
import re
import subprocess
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
import device as devices  # noqa: E402
from device import Skip, die_with_parent, main, same, true  # noqa: E402

CHECK_KERNEL = os.path.join(HERE, "..", "..", "qemu", "check-kernel")
CANNOT = 77
devices.TEST_LIMIT = 900


def test_part(_place):
    """the device needs no system call that its sandbox lacks under Debian's 6.1 kernel; what fails there is told"""
    if os.environ.get("VTPM_TEST_GUEST") == "skip":
        raise Skip("VTPM_TEST_GUEST=skip")
    env = {name: value for name, value in os.environ.items() if name != "VTPM_TEST_ONLY"}
    # /bin/false: a program that fails
    done = subprocess.run([CHECK_KERNEL, os.path.join(HERE, "kernel_part.py"), "/bin/false"], env={**env, "VTPM_TEST_KERNELS": "1"},
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=devices.TEST_LIMIT, check=False,
                          preexec_fn=die_with_parent)
    if done.returncode == CANNOT:
        raise Skip(done.stderr.strip())
    said = done.stdout + done.stderr
    part = re.search(r"^ok   kernel_part.py: (\d+) passed, 0 failed", said, re.M)
    true(part, said)
    true(re.search(r"^# Linux 6\.1\.", said, re.M), "another kernel: " + said)
    true(re.search(r"^FAIL false: ", said, re.M), "a program that fails is not told: " + said)
    same((said.splitlines()[-1], done.returncode), (part.group(1) + " passed, 1 failed, 0 skipped", 1), "the count")
    return part.group(1) + " tests"


if __name__ == "__main__":
    main(globals())
