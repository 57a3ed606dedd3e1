#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The package's AppArmor profile in a guest with Debian's kernel: what libvirt does with a TPM works confined, without
one denial, and what is outside is denied. The profiles are compiled here and loaded there; a host need have no AppArmor."""
import glob
import os
import re
import shutil
import subprocess

from device import Skip, VTPM, die_with_parent, main, same, true
from package import build

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
QEMU = os.path.join(TOP, "qemu")
VM = "7d444840-9dc0-41d1-b245-5ffdce74fad2"
BOOT_LIMIT = 150
FEATURES = "/usr/share/apparmor-features/features"  # of Debian's kernel, not of the one that runs here
LIBVIRTD = "/etc/apparmor.d/usr.sbin.libvirtd"

# What virt-aa-helper writes for a domain with a TPM (libvirt 9.0, virt-aa-helper.c).
DOMAIN = """
include <tunables/global>
profile libvirt-%(vm)s flags=(attach_disconnected) {
  include <abstractions/libvirt-qemu>
  "/run/libvirt/qemu/swtpm/1-vm-swtpm.sock" rw,
  "/var/lib/libvirt/swtpm/%(vm)s/tpm2/" r,
  "/var/lib/libvirt/swtpm/%(vm)s/tpm2/**" rwk,
  "/var/log/swtpm/libvirt/qemu/vm-swtpm.log" w,
  /bin/busybox r,
}
"""
FILES = {"etc/passwd": "root:x:0:0:root:/root:/bin/sh\ntss:x:102:109::/var/lib/tpm:/bin/sh\n",
         "etc/group": "root:x:0:\ntss:x:109:\nvtpm:x:110:tss\n"}


def compile_profile(source, target):
    done = subprocess.run(["/usr/sbin/apparmor_parser", "--skip-cache", "--skip-kernel-load", "--kernel-features", FEATURES,
                           "--ofile", target, source], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=120, check=False)
    same((done.returncode, os.path.getsize(target) > 0), (0, True), "apparmor_parser " + done.stdout)


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def profiles():
    """Ours, and, where libvirt is installed, libvirtd's own and a domain's."""
    os.mkdir("profiles")
    compile_profile("unpacked/etc/apparmor.d/usr.bin.swtpm", "profiles/1")
    if os.path.exists(LIBVIRTD):
        write("work/domain", DOMAIN % {"vm": VM})
        compile_profile(LIBVIRTD, "profiles/2")
        compile_profile("work/domain", "profiles/3")


def initramfs(cache):
    pairs = ["%s=%s" % (os.path.relpath(path, "unpacked"), os.path.abspath(path))
             for path in glob.glob("unpacked/usr/bin/*") + glob.glob("unpacked/usr/libexec/vtpm/vtpm-[pc]*")
             + ["unpacked/etc/vtpm/vtpm.conf"]]
    for place, text in FILES.items():
        write("files/" + place, text)
        pairs.append("%s=%s" % (place, os.path.abspath("files/" + place)))
    pairs += ["%s=%s" % (path, os.path.abspath(path)) for path in glob.glob("profiles/*")]
    done = subprocess.run([os.path.join(QEMU, "initramfs"), cache, "initramfs-apparmor",
                           os.path.join(QEMU, "init-apparmor"), *pairs], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False)
    same(done.returncode, 0, "initramfs: " + done.stdout)


def boot(cache):
    line = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-m", "384", "-nodefaults", "-display", "none",
            "-no-reboot", "-kernel", cache + "/vmlinuz", "-initrd", cache + "/initramfs-apparmor", "-serial", "stdio",
            "-append", "console=ttyS0 quiet panic=-1 apparmor=1 security=apparmor"]
    done = subprocess.run(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=BOOT_LIMIT, check=False, preexec_fn=die_with_parent)
    return done.stdout.decode("utf-8", "replace").replace("\r", "")


def guest():
    for program in ("/usr/sbin/apparmor_parser", "/usr/bin/qemu-system-x86_64", "/usr/bin/tpm2", "/usr/bin/cpio"):
        if not os.path.exists(program):
            raise Skip(program + " is not installed")
    package = build()
    subprocess.run(["dpkg-deb", "-x", package, "unpacked"], check=True, timeout=60)
    cache = os.path.abspath(os.environ.get("VTPM_TEST_CACHE", os.path.join(os.path.dirname(VTPM), "guest-cache")))
    done = subprocess.run([os.path.join(QEMU, "fetch-kernel"), cache], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=700, check=False)
    same(done.returncode, 0, done.stdout)
    profiles()
    initramfs(cache)
    return boot(cache)


def test_profile(_place):
    """Made, started, used, given a new key and stopped under it, as libvirt does; what is outside is denied"""
    text = guest()
    wanted, outside, rest = text.partition("guest: from here on it is denied")
    true(outside and "guest: end" in rest, "the guest did not come to its end:\n" + text[-3000:])
    steps = dict(re.findall(r"^guest: (\w+) (ok|failed.*)$", text, re.M))
    told = "\n".join(line for line in text.splitlines() if line.startswith("guest"))
    same(steps, dict.fromkeys("profiles host setup start labels random rekey stop reconfigure takes_over "
                              "comes_in secret elsewhere shadow helper".split(),
                              "ok"), told)
    same(re.findall(r"^guest denied: .*", wanted, re.M), [], "of what libvirt does something was denied")
    denials = re.findall(r'operation="(\w+)" profile="swtpm" name="([^"]*)"', rest)
    true(any(name.startswith("/srv/other") for _, name in denials), "nothing in /srv/other was denied: %r" % denials)
    true(("open", "/etc/shadow") in denials, "/etc/shadow was not denied: %r" % denials)
    true(("exec", "/tmp/helpers/vtpm-provider-mine") in denials, "a program elsewhere was not denied: %r" % denials)
    if os.path.exists(LIBVIRTD):
        true("guest: libvirt libvirt-" + VM in text, "libvirtd's profile was not in force")
    shutil.rmtree("unpacked")


if __name__ == "__main__":
    main(globals())
