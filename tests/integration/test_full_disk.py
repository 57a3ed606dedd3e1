#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""A disk that is full and has room again, on small file systems of our own: root only."""
import contextlib
import os
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import STOP, Skip, contains, main, need_root, same, true  # noqa: E402
from tpm_bytes import RC_FAILURE, RC_RETRY, nv_define, nv_read, nv_write, startup  # noqa: E402

INDEX = 0x01500001


@contextlib.contextmanager
def small_disk(place, kind, size, *options):
    """A file system of SIZE bytes mounted at 'disk'."""
    need_root()
    os.mkdir("disk")
    if kind == "tmpfs":
        line = ["mount", "-t", "tmpfs", "-o", ",".join(["size=%d" % size, *options]), "none", "disk"]
    else:
        with open("image", "wb") as image:
            image.truncate(size)
        if not shutil.which("mkfs.ext4"):
            raise Skip("mkfs.ext4 is not installed")
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "image"], check=True)
        line = ["mount", "-o", "loop", "image", "disk"]
    if subprocess.run(line, stderr=subprocess.DEVNULL, check=False).returncode:
        raise Skip("%s cannot be mounted here" % kind)
    try:
        yield
    finally:
        place.clean_up()
        subprocess.run(["umount", "disk"], check=False, stderr=subprocess.DEVNULL)
        if os.path.ismount("disk"):
            subprocess.run(["umount", "-l", "disk"], check=True)


def fill(path="disk/filler"):
    """Leaves not a byte of room."""
    for size in (65536, 4096, 512, 1):
        with contextlib.suppress(OSError):
            with open(path, "ab", buffering=0) as file:
                while file.write(b"x" * size) == size:
                    pass


def full_and_room_again(place, kind):
    with small_disk(place, kind, 2 << 20):
        place.create("disk/state.vtpm")
        device = place.start("disk/state.vtpm")
        control, data = device.powered()
        data.good(nv_define(INDEX, 8))
        fill()
        for number in range(50):  # fits into the space that the file has already
            data.good(nv_write(INDEX, b"%08d" % number))
        grown = []
        code = 0
        while code == 0 and len(grown) < 60:  # until the state is larger than that
            grown.append(0x01510000 + len(grown))
            code = data.rc(nv_define(grown[-1], 2048))
        same(code, RC_FAILURE)
        true(len(grown) > 3, "the space that a new file has holds %d indices of 2 KiB" % len(grown))
        same(data.rc(nv_write(INDEX, b"refused!")), RC_RETRY)
        contains(device.log(), "[store-full]")
        done = place.vtpm("create", "disk/other.vtpm", "--config", place.config)
        same(done.returncode, 1, done.stderr)
        contains(done.stderr, "[store-full]")
        same(sorted(os.listdir("disk")), sorted({"filler", "state.vtpm"} | (set() if kind == "tmpfs" else {"lost+found"})))
        same(control.result(STOP), 0)
        same(control.init(), 0)
        same(data.rc(startup()), RC_RETRY)
        os.truncate("disk/filler", 0)
        same(data.rc(startup()), 0)
        same(data.nv(INDEX), b"%08d" % 49)
        for index in grown:
            same(data.rc(nv_read(index, 4)), 0x14A, "index %x is defined, and was never written" % index)
        device.kill()
        device = place.start("disk/state.vtpm", log="after")
        control, data = device.powered()
        same(data.nv(INDEX), b"%08d" % 49)
        same(data.rc(nv_read(grown[-1], 4)), 0x14A)
        # an end on a full disk
        fill()
        index, code = grown[-1], 0
        while code == 0:
            index += 1
            code = data.rc(nv_define(index, 2048))
        same(code, RC_FAILURE)
        device.process.terminate()
        device.ends(1, "[store-full]")
        os.truncate("disk/filler", 0)
        device = place.start("disk/state.vtpm", log="last")
        control, data = device.powered()
        same(data.nv(INDEX), b"%08d" % 49)
        same(data.rc(nv_read(index - 1, 4)), 0x14A)
        device.term()
        place.sound("disk/state.vtpm")
        return "%d indices until full" % len(grown)


def test_full_ext4(place):
    """a full ext4: small commits go on, a growing one waits and is told; with room again nothing is lost"""
    return full_and_room_again(place, "ext4")


def test_full_tmpfs(place):
    """the same on tmpfs"""
    return full_and_room_again(place, "tmpfs")


if __name__ == "__main__":
    main(globals())
