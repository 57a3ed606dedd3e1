# SPDX-License-Identifier: BSD-3-Clause
"""A medium that boots under Secure Boot, made of Debian's signed packages, and the firmware that enforces it.

Debian's shim is signed by Microsoft, as Windows' boot manager is; GRUB and kernel are signed by Debian, whose certificate
is in shim. Nothing of the host is changed: the packages are downloaded and unpacked into the cache folder.

  lack = medium.missing()                                       what this machine lacks, or None
  loaders = medium.fetch(cache)                                 folder with shim and GRUB; fetched once
  medium.make_disk(path, kernel, initramfs, cmdline, loaders)   FAT image: a disk, or with make_iso a CD's boot image
  medium.make_iso(path, kernel, initramfs, cmdline, loaders, files={"NAME": "SOURCE"})
  medium.make_variables(path, enrolled=True)                    firmware's variables, raw
  [QEMU, *medium.machine(variables)]                            q35 with SMM and that firmware; no disk, TPM or -kernel
"""
import os
import shutil
import tempfile

import debs
from guest import QEMU, accelerator

# The build with SMM, which alone keeps a guest's kernel from writing the variables (OVMF's README, "SMM support").
CODE = "/usr/share/OVMF/OVMF_CODE_4M.ms.fd"
# Microsoft's KEK and db, Secure Boot on; and no key at all, Secure Boot off.
VARIABLES = {True: "/usr/share/OVMF/OVMF_VARS_4M.ms.fd", False: "/usr/share/OVMF/OVMF_VARS_4M.fd"}
PROGRAMS = {QEMU: "qemu-system-x86", "mkfs.vfat": "dosfstools", "mcopy": "mtools", "xorriso": "xorriso",
            "apt-get": "apt", "dpkg": "dpkg"}
# package, its file, its name on a removable medium: the firmware looks for BOOTX64.EFI (UEFI 3.5.1.1), shim beside itself
LOADERS = (("shim-signed", "usr/lib/shim/shimx64.efi.signed", "BOOTX64.EFI"),
           ("grub-efi-amd64-signed", "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", "grubx64.efi"))
LOADER_FOLDER = "EFI/BOOT"
# Debian's signed GRUB has this place built in
GRUB_FOLDER = "EFI/debian"
# linuxefi: linux would start the kernel past its EFI stub where Secure Boot is off, and the event log would be lost
GRUB_CONFIG = """set timeout=0
linuxefi /vmlinuz {cmdline}
initrdefi /initramfs
boot
"""
MIB = 1 << 20


def missing():
    for program, package in PROGRAMS.items():
        if not shutil.which(program):
            return f"{program} is not installed; install {package}"
    for path in (CODE, *VARIABLES.values()):
        if not os.path.exists(path):
            return f"{path} is not there; install ovmf"
    return None


def fetch(cache):
    """Downloads and unpacks shim and GRUB where that is not done yet; returns the folder that has both."""
    return debs.fetch(cache, "loaders", LOADERS)


def make_disk(path, kernel, initramfs, cmdline, loaders):
    """A FAT file system without a partition table, which firmware and GRUB take for an EFI system partition."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(path))) as work:
        _make_tree(work, kernel, initramfs, cmdline, loaders)
        _make_fat(path, work)


def make_iso(path, kernel, initramfs, cmdline, loaders, files=None):
    """A bootable CD (El Torito, EFI). FILES are put beside the kernel, as on an installation medium."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(path))) as work:
        tree, boot = os.path.join(work, "tree"), os.path.join(work, "boot")
        _make_tree(tree, kernel, initramfs, cmdline, loaders)
        # GRUB takes the CD itself for its root: only shim and GRUB are read from the boot image
        os.makedirs(os.path.join(boot, "EFI"))
        shutil.move(os.path.join(tree, LOADER_FOLDER), os.path.join(boot, LOADER_FOLDER))
        _make_fat(os.path.join(tree, "efi.img"), boot)
        for name, source in (files or {}).items():
            os.makedirs(os.path.dirname(os.path.join(tree, name)), exist_ok=True)
            shutil.copyfile(source, os.path.join(tree, name))
        debs.run("xorriso", "-as", "mkisofs", "-quiet", "-J", "-R", "-V", "FREE_MEDIUM", "-e", "efi.img", "-no-emul-boot", "-o", path, tree)


def put(disk, name, source):
    """Replaces one file of a disk of make_disk()."""
    debs.run("mcopy", "-o", "-i", disk, source, f"::{name}")


def _make_tree(work, kernel, initramfs, cmdline, loaders):
    for folder in (LOADER_FOLDER, GRUB_FOLDER):
        os.makedirs(os.path.join(work, folder))
    for _, _, name in LOADERS:
        shutil.copyfile(os.path.join(loaders, name), os.path.join(work, LOADER_FOLDER, name))
    with open(os.path.join(work, GRUB_FOLDER, "grub.cfg"), "w", encoding="utf-8") as file:
        file.write(GRUB_CONFIG.format(cmdline=cmdline))
    shutil.copyfile(kernel, os.path.join(work, "vmlinuz"))
    shutil.copyfile(initramfs, os.path.join(work, "initramfs"))


def _make_fat(path, tree):
    size = sum(os.path.getsize(os.path.join(where, name)) for where, _, names in os.walk(tree) for name in names)
    with open(path, "wb") as file:
        file.truncate((size // MIB + 4) * MIB)
    debs.run("mkfs.vfat", "-n", "FREE", path)
    debs.run("mcopy", "-s", "-i", path, *(os.path.join(tree, name) for name in sorted(os.listdir(tree))), "::")


def make_variables(path, enrolled=True):
    shutil.copyfile(VARIABLES[enrolled], path)
    os.chmod(path, 0o600)


def machine(variables, memory=512, sleep=False):
    """What QEMU needs for a firmware that enforces Secure Boot (OVMF's README, "SMM support"): SMM, and flash that only SMM may
    write. SLEEP offers ACPI S3 to the guest, which libvirt does not."""
    return ["-M", "q35,smm=on", "-accel", accelerator(), "-m", str(memory),
            "-global", "driver=cfi.pflash01,property=secure,value=on", "-global", f"ICH9-LPC.disable_s3={0 if sleep else 1}",
            "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={CODE}",
            "-drive", f"if=pflash,unit=1,format=raw,file={variables}"]
