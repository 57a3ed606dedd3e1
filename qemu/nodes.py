# SPDX-License-Identifier: BSD-3-Clause
"""The guest with device nodes: Debian's kernel, its modules for CUSE and vtpm-proxy, and the programs under test, which
run inside (qemu/init-nodes). No firmware of its own, no TPM.

Environment: VTPM names the program under test (default ./vtpm), VTPM_LIBEXEC_DIR the folder of its CUSE module,
VTPM_TEST_CACHE the folder for kernel and initramfs. VTPM_TEST_GUEST=skip: there is no guest.
"""
import glob
import os
import shutil
import socket
import subprocess

from guest import PROGRAMS, QEMU, Guest, GuestError, Qmp, accelerator, die_with_parent, serial_line
from tpms import last_lines

HERE = os.path.dirname(os.path.realpath(__file__))
VTPM = os.path.abspath(os.environ.get("VTPM", "./vtpm"))
MODULE = os.path.join(os.path.abspath(os.environ.get("VTPM_LIBEXEC_DIR", ".")), "vtpm-cuse.so")
SWTPM_TCTI = "/usr/lib/*/libtss2-tcti-swtpm.so.0"
KERNEL_MODULES = ("fuse", "cuse", "tpm_vtpm_proxy")
STEP_LIMIT = 60


class NodeGuest(Guest):
    def __init__(self, folder, cache, initramfs, say):
        super().__init__(folder, cache, None, "nodes", progress=say)
        self.initramfs, self.say = initramfs, say

    def _start(self):
        self.serial, serial_theirs = serial_line()
        qmp_ours, qmp_theirs = socket.socketpair()
        self.qmp = Qmp(qmp_ours)
        theirs = (serial_theirs.fileno(), qmp_theirs.fileno())
        line = [QEMU, "-M", "q35", "-accel", accelerator(), "-cpu", "max", "-m", "256", "-nodefaults",
                "-display", "none", "-no-reboot", "-kernel", os.path.join(self.cache, "vmlinuz"),
                "-initrd", self.initramfs, "-append", "console=ttyS0 loglevel=0 panic=-1",
                "-chardev", f"socket,id=serial,fd={theirs[0]}", "-serial", "chardev:serial",
                "-chardev", f"socket,id=qmp,fd={theirs[1]}", "-mon", "chardev=qmp,mode=control"]
        with open(self.qemu_log, "wb") as log:
            self.process = subprocess.Popen(line, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            pass_fds=theirs, preexec_fn=die_with_parent)
        serial_theirs.close()
        qmp_theirs.close()

    def _report(self, error):
        self.say(f"{error}; the last lines of the serial line:\n" + "\n".join(last_lines(self.serial_log)))

    def boot(self):
        self.expect(rb"guest: ready\r?\n", "the guest's init", limit=STEP_LIMIT)
        self.ask("setup")


def reason_to_skip(client):
    if os.environ.get("VTPM_TEST_GUEST") == "skip":
        return "VTPM_TEST_GUEST=skip"
    for program in (*PROGRAMS, "swtpm_ioctl"):
        if not shutil.which(program):
            return f"{program} is not installed"
    for path in (VTPM, MODULE, client):
        if not os.path.exists(path):
            return f"{path} is not there"
    if b"libasan" in subprocess.run(["ldd", VTPM], capture_output=True, check=False).stdout:
        return "the sanitizers' memory does not fit into the guest"
    return None


def run_step(*line):
    done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, timeout=700, check=False)
    if done.returncode != 0:
        raise GuestError(done.stderr.decode("utf-8", "replace").strip())


def prepare(name, client):
    """Makes the initramfs NAME, with CLIENT in /bin; (cache folder, initramfs)."""
    cache = os.path.abspath(os.environ.get("VTPM_TEST_CACHE", "./guest-cache"))
    run_step(os.path.join(HERE, "fetch-kernel"), cache)
    modules = [os.path.join(cache, "modules", module + ".ko") for module in KERNEL_MODULES]
    for path in modules:
        if not os.path.exists(path):
            raise GuestError(f"the kernel's package has no {os.path.basename(path)}")
    places = {"bin/vtpm": VTPM, "lib/vtpm/vtpm-cuse.so": MODULE, "bin/" + os.path.basename(client): client,
              "bin/swtpm_ioctl": shutil.which("swtpm_ioctl"),
              **{"lib/compat/" + program: os.path.join(os.path.dirname(VTPM), "swtpm-compat", program)
                 for program in ("swtpm", "swtpm_ioctl")},
              "frontends.md": os.path.join(HERE, "..", "docs", "frontends.md")}
    places.update({path[1:]: path for path in glob.glob(SWTPM_TCTI)})
    places.update({"modules/" + os.path.basename(path): path for path in modules})
    run_step(os.path.join(HERE, "initramfs"), cache, name, os.path.join(HERE, "init-nodes"),
             *(f"{place}={path}" for place, path in places.items()))
    return cache, os.path.join(cache, name)
