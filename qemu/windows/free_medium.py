#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Makes the free medium: an installation image with shim, GRUB and kernel of Debian and, in place of Windows, setup.sh.

  free_medium.py FILE.iso [--ask WHAT]    with --ask its setup stops at a question, as a real one may

Environment: VTPM_TEST_CACHE (kernel and loaders, default ./guest-cache).
"""
import argparse
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.realpath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.dirname(HERE)]
import guest  # noqa: E402
import medium  # noqa: E402
from iso import FREE_MEDIUM  # noqa: E402
from tpms import GuestError  # noqa: E402

# One boot image is both the medium's and the disk's: setup.sh copies it and puts 1 for the 0. As Windows' boot manager
# does, it waits for a key where it is started from the medium; then it hands the answers to the kernel, which has no
# driver for a CD: a cpio archive is added to the initramfs.
GRUB = """set installed=0
set timeout=-1
if [ "$installed" = 1 ]; then
  set timeout=0
fi
menuentry "Press a key to boot from CD or DVD....." {{
  linuxefi /vmlinuz console=tty0 loglevel=0 panic=-1 mark={mark:010d} {more}
  if [ "$installed" = 1 ]; then
    initrdefi /initramfs
  else
    search --no-floppy --set=answers --file /autounattend.xml
    initrdefi /initramfs ($answers)/answers.cpio
  fi
}}
"""
# NVMe is in the kernel
MODULES = ("efivarfs", "virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk")
MARK = b"set installed=0\n"


def _write_config(image, work, mark, more):
    path = os.path.join(work, "grub.cfg")
    with open(path, "w", encoding="utf-8") as file:
        file.write(GRUB.format(mark=mark, more=more))
    medium.put(image, f"{medium.GRUB_FOLDER}/grub.cfg", path)


def _find_mark(image):
    with open(image, "rb") as file:
        data = file.read()
    if data.count(MARK) != 1:
        raise GuestError("the boot image has its mark not just once")
    return data.index(MARK) + len(MARK) - 2


def make(path, cache, ask=None):
    """The boot image stands in the ISO as its second partition, which the installing kernel sees as such."""
    loaders = medium.fetch(cache)
    done = subprocess.run([os.path.join(HERE, "..", "initramfs"), cache, "initramfs-free", os.path.join(HERE, "setup.sh"),
                           *(f"{name}.ko=" + os.path.join(cache, "modules", f"{name}.ko") for name in MODULES)],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise GuestError(done.stderr.strip())
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(path))) as work:
        image, tree = os.path.join(work, "efi.img"), os.path.join(work, "tree")
        medium.make_disk(image, os.path.join(cache, "vmlinuz"), os.path.join(cache, "initramfs-free"), "", loaders)
        more = f"ask={ask}" if ask else ""
        _write_config(image, work, 0, more)
        _write_config(image, work, _find_mark(image), more)
        os.mkdir(tree)
        with open(os.path.join(tree, "README.txt"), "w", encoding="utf-8") as file:
            file.write("Stands in for an installation medium of Windows in the tests of vtpm.\n")
        done = subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", "-V", FREE_MEDIUM, "-o", path, "-appended_part_as_gpt",
                               "-append_partition", "2", "0xef", image, "-e", "--interval:appended_partition_2:all::",
                               "-no-emul-boot", tree],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            raise GuestError("xorriso: " + done.stderr.strip())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--ask")
    options = parser.parse_args()
    try:
        make(options.file, guest.prepare(), options.ask)
    except GuestError as error:
        sys.exit(f"free_medium: {error}")


if __name__ == "__main__":
    main()
