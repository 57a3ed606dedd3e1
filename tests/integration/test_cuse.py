#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""TAP: the device nodes, by CUSE and by the kernel's vtpm-proxy. Build hosts have neither, so nearly all of it runs in a
guest with Debian's kernel, its modules and the programs under test in the initramfs (qemu/init-nodes).

Environment: VTPM names the program under test (default ./vtpm), VTPM_LIBEXEC_DIR the folder of its CUSE module,
VTPM_TEST_NODE_CLIENT the client, VTPM_TEST_CACHE the folder for kernel and initramfs. VTPM_TEST_GUEST=skip skips all.
"""
import glob
import os
import shutil
import socket
import subprocess
import sys
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
QEMU_FOLDER = os.path.join(HERE, "..", "..", "qemu")
sys.path.insert(0, QEMU_FOLDER)
from guest import PROGRAMS, QEMU, Guest, GuestError, Qmp, Workplace, accelerator, die_with_parent  # noqa: E402
from tpms import last_lines  # noqa: E402

VTPM = os.path.abspath(os.environ.get("VTPM", "./vtpm"))
MODULE = os.path.join(os.path.abspath(os.environ.get("VTPM_LIBEXEC_DIR", ".")), "vtpm-cuse.so")
CLIENT = os.path.abspath(os.environ.get("VTPM_TEST_NODE_CLIENT", "./tests/integration/node_client"))
SWTPM_TCTI = "/usr/lib/*/libtss2-tcti-swtpm.so.0"
KERNEL_MODULES = ("fuse", "cuse", "tpm_vtpm_proxy")
STEP_LIMIT = 60
HOST_TESTS = 3
TESTS = (  # name, what the guest is asked
    ("cuse: mode and owner of the node; tpm2-tools, four openers at once", "tools"),
    ("cuse: after kill -9 the node is gone, and the next start has all that was acknowledged", "killed"),
    ("cuse: partial reads, poll, what is no command, and commands of several openers in turn", "client files"),
    ("cuse: a signal ends a read, and the command goes on", "client interrupt"),
    ("cuse: CANCEL of another opener ends the command that runs", "client cancel"),
    ("cuse: more openers than it takes, and 2000 that do not wait for their answer", "client many"),
    ("cuse: every ioctl with good and bad input, state blobs in pieces", "client ioctls"),
    ("cuse: swtpm_ioctl, unchanged", "swtpm_ioctl"),
    ("cuse: a control socket beside it", "beside"),
    ("cuse: a name that is taken is refused and left alone", "in_use"),
    ("cuse: SHUTDOWN and SIGTERM while a command runs: it is answered", "end_while_running"),
    ("cuse: INIT tells that there is no key", "no_key"),
    ("cuse: only its process loads libfuse3", "libraries"),
    ("vtpm-proxy: tpm2-tools on the kernel's device, a control socket, kill -9, --daemon", "proxy"),
    ("vtpm-proxy: two of them, and one that ends while its TPM is at work", "proxies"),
    ("docs/frontends.md: the example of a socket", "example socket"),
    ("docs/frontends.md: the example of CUSE", "example cuse"),
    ("docs/frontends.md: the example of vtpm-proxy", "example proxy"),
)


class NodeGuest(Guest):
    """Without firmware of its own and without a TPM: vtpm runs inside."""

    def __init__(self, folder, cache, initramfs):
        super().__init__(folder, cache, None, "nodes", progress=say)
        self.initramfs = initramfs

    def _start(self):
        self.serial, serial_theirs = socket.socketpair()
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
        say(f"{error}; the last lines of the serial line:\n" + "\n".join(last_lines(self.serial_log)))

    def boot(self):
        self.expect(rb"guest: ready\r?\n", "the guest's init", limit=STEP_LIMIT)


def say(text):
    print("# " + str(text).replace("\n", "\n# "), flush=True)


def reason_to_skip():
    if os.environ.get("VTPM_TEST_GUEST") == "skip":
        return "VTPM_TEST_GUEST=skip"
    for program in (*PROGRAMS, "swtpm_ioctl"):
        if not shutil.which(program):
            return f"{program} is not installed"
    for path in (VTPM, MODULE, CLIENT):
        if not os.path.exists(path):
            return f"{path} is not there"
    if b"libasan" in subprocess.run(["ldd", VTPM], capture_output=True, check=False).stdout:
        return "the sanitizers' memory does not fit into the guest"
    return None


def run_step(*line):
    done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, timeout=700, check=False)
    if done.returncode != 0:
        raise GuestError(done.stderr.decode("utf-8", "replace").strip())


def prepare():
    """(cache folder, initramfs)"""
    cache = os.path.abspath(os.environ.get("VTPM_TEST_CACHE", "./guest-cache"))
    run_step(os.path.join(QEMU_FOLDER, "fetch-kernel"), cache)
    modules = [os.path.join(cache, "modules", name + ".ko") for name in KERNEL_MODULES]
    for path in modules:
        if not os.path.exists(path):
            raise GuestError(f"the kernel's package has no {os.path.basename(path)}")
    places = {"bin/vtpm": VTPM, "lib/vtpm/vtpm-cuse.so": MODULE, "bin/node_client": CLIENT,
              "bin/swtpm_ioctl": shutil.which("swtpm_ioctl"),
              "frontends.md": os.path.join(HERE, "..", "..", "docs", "frontends.md")}
    places.update({path[1:]: path for path in glob.glob(SWTPM_TCTI)})
    places.update({"modules/" + os.path.basename(path): path for path in modules})
    run_step(os.path.join(QEMU_FOLDER, "initramfs"), cache, "initramfs-nodes", os.path.join(QEMU_FOLDER, "init-nodes"),
             *(f"{place}={path}" for place, path in places.items()))
    return cache, os.path.join(cache, "initramfs-nodes")


def refused(status, piece, *options):
    """vtpm run ends with STATUS and PIECE in its one line."""
    done = subprocess.run([VTPM, "run", "/nonexistent", *options], stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=30, check=False)
    lines = done.stderr.decode().splitlines()
    if done.returncode == status and len(lines) == 1 and piece in lines[0]:
        return []
    return [f"{' '.join(options)}: {done.returncode}, {lines}"]


def told_on_the_host():
    """What needs no device. Gives how many failed."""
    number = 1
    bad = (("--cuse", ""), ("--cuse", "a/b"), ("--cuse", ".."), ("--cuse", "a" * 65), ("--cuse", "a,mode=999"),
           ("--cuse", "a,owner=1"), ("--cuse", "a", "--vtpm-proxy"), ("--cuse", "a", "--data", "unix:x"),
           ("--vtpm-proxy", "--data", "unix:x"), ())
    wrong = [line for options in bad for line in refused(2, "[usage]", *options)]
    report(number, "what cannot be asked for is told", not wrong, wrong)
    failed = bool(wrong)
    for path, module, option in (("/dev/cuse", "cuse", ("--cuse", "vtpm-test")),
                                 ("/dev/vtpmx", "tpm_vtpm_proxy", ("--vtpm-proxy",))):
        number += 1
        name = f"without {path} the command that makes it is named"
        if os.path.exists(path):
            print(f"ok {number} - {name} # SKIP it is there", flush=True)
            continue
        wrong = refused(1, f"modprobe {module}", *option)
        report(number, name, not wrong, wrong)
        failed += bool(wrong)
    return failed


def report(number, name, ok, detail=()):
    print(f"{'ok' if ok else 'not ok'} {number} - {name}", flush=True)
    for line in detail:
        say(line)


def run_tests(guest):
    failed = 0
    last = HOST_TESTS + len(TESTS)
    for number, (name, request) in enumerate(TESTS, HOST_TESTS + 1):
        start = time.monotonic()
        try:
            status, lines = guest.ask(*request.split(), may_fail=True)
        except GuestError as error:
            status, lines = -1, [str(error)]
        took = f"{request}: {time.monotonic() - start:.1f} s"
        report(number, name, status == 0, [*(lines if status else [l for l in lines if "median" in l]), took])
        failed += status != 0
        if status == -1:  # nothing more comes from there
            for rest in range(number + 1, last + 1):
                report(rest, TESTS[rest - HOST_TESTS - 1][0], False)
            return failed + last - number
    return failed


def main():
    print(f"1..{HOST_TESTS + len(TESTS)}", flush=True)
    failed = told_on_the_host()
    reason = reason_to_skip()
    try:
        cache, initramfs = prepare() if not reason else (None, None)
    except (GuestError, subprocess.TimeoutExpired) as error:
        reason = str(error).splitlines()[-1]
    if reason:
        for number, (name, _) in enumerate(TESTS, HOST_TESTS + 1):
            print(f"ok {number} - {name} # SKIP {reason}", flush=True)
        return failed
    with Workplace() as folder, NodeGuest(folder, cache, initramfs) as guest:
        start = time.monotonic()
        guest.boot()
        guest.ask("setup")
        say(f"boot and setup: {time.monotonic() - start:.1f} s")
        return 1 if run_tests(guest) + failed else 0


if __name__ == "__main__":
    sys.exit(main())
