#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""TAP: the device nodes, by CUSE and by the kernel's vtpm-proxy. Build hosts have neither, so nearly all of it runs in a
guest with Debian's kernel, its modules and the programs under test in the initramfs (qemu/init-nodes).

Environment: see qemu/nodes.py; VTPM_TEST_NODE_CLIENT names the client.
"""
import os
import subprocess
import sys
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
QEMU_FOLDER = os.path.join(HERE, "..", "..", "qemu")
sys.path.insert(0, QEMU_FOLDER)
from guest import GuestError, Workplace  # noqa: E402
from nodes import VTPM, NodeGuest, prepare, reason_to_skip  # noqa: E402

CLIENT = os.path.abspath(os.environ.get("VTPM_TEST_NODE_CLIENT", "./tests/integration/node_client"))
HOST_TESTS = 3
TESTS = (  # name, what the guest is asked
    ("cuse: mode and owner of the node, and who may open it; tpm2-tools, four openers at once", "tools"),
    ("cuse: after kill -9 the node is gone, and the next start has all that was acknowledged", "killed"),
    ("cuse: partial reads, poll, what is no command, and commands of several openers in turn", "client files"),
    ("cuse: a signal ends a read, and the command goes on", "client interrupt"),
    ("cuse: CANCEL of another opener ends the command that runs", "client cancel"),
    ("cuse: more openers than it takes, and 2000 that do not wait for their answer", "client many"),
    ("cuse: every ioctl with good and bad input, state blobs in pieces", "client ioctls"),
    ("cuse: every ioctl with another size or direction, or an address that is none", "client bad-ioctls"),
    ("cuse: swtpm_ioctl, unchanged", "swtpm_ioctl"),
    ("swtpm cuse and swtpm chardev, and our swtpm_ioctl on the device", "compat"),
    ("cuse: a control socket beside it", "beside"),
    ("cuse: a name that is taken is refused and left alone; without the module it is named", "in_use"),
    ("cuse: SHUTDOWN and SIGTERM while a command runs: it is answered", "end_while_running"),
    ("cuse: kill -9 while a command runs: its user is told, and the next start has all that was acknowledged",
     "lost_while_running 137 kill -9"),
    ("cuse: unmounted while a command runs: its user is told, the process ends, nothing is lost", "lost_while_running 1 unmount"),
    ("cuse: INIT tells that there is no key", "no_key"),
    ("cuse: an INIT that waits for the key is ended by a signal, and others are served", "waiting"),
    ("cuse, vtpm-proxy: started by root, served by an ordinary user", "run_as"),
    ("cuse: only its process loads libfuse3", "libraries"),
    ("vtpm-proxy: tpm2-tools on the kernel's device, a control socket, kill -9, --daemon", "proxy"),
    ("vtpm-proxy: two of them, and one that ends while its TPM is at work", "proxies"),
    ("docs/frontends.md: the example of a socket", "example socket"),
    ("docs/frontends.md: the example of CUSE", "example cuse"),
    ("docs/frontends.md: the example of vtpm-proxy", "example proxy"),
)


def say(text):
    print("# " + str(text).replace("\n", "\n# "), flush=True)


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
    reason = reason_to_skip(CLIENT)
    try:
        cache, initramfs = prepare("initramfs-nodes", CLIENT) if not reason else (None, None)
    except (GuestError, subprocess.TimeoutExpired) as error:
        reason = str(error).splitlines()[-1]
    if reason:
        for number, (name, _) in enumerate(TESTS, HOST_TESTS + 1):
            print(f"ok {number} - {name} # SKIP {reason}", flush=True)
        return failed
    with Workplace() as folder, NodeGuest(folder, cache, initramfs, say) as guest:
        start = time.monotonic()
        guest.boot()
        say(f"boot and setup: {time.monotonic() - start:.1f} s")
        return 1 if run_tests(guest) + failed else 0


if __name__ == "__main__":
    sys.exit(main())
