#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""How `vtpm run` starts: daemon, power, identity, what it refuses and with which exit status."""
import contextlib
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import uuid

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (GET_CAPABILITY, INIT, KEY_NOT_FOUND, LIMIT, VTPM, Control, Tpm, closed, connect,  # noqa: E402
                    contains, die_with_parent, gone, lacks, main, read_file, same, true, wait_until, write_file)
from tpm_bytes import get_random, nv_define, nv_write, rc_of, startup, words  # noqa: E402

INDEX = 0x01500001
NOBODY = 65534


def run_daemon(place, *args, limit=LIMIT):
    """Its output is captured: this returns only when nobody holds it any more."""
    return subprocess.run([VTPM, "run", *args, "--daemon", "--pid-file", "pid", "--config", place.config, "--manage",
                           "none"], env=place.env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=limit, check=False, preexec_fn=os.setpgrp)


@contextlib.contextmanager
def daemon(place, *args):
    done = run_daemon(place, *args)
    same((done.returncode, done.stdout, done.stderr), (0, "", ""))
    pid = int(read_file("pid"))
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_daemon(place):
    """--daemon returns 0 when the TPM can be used, holds no output, terminal or session of its caller's"""
    place.create()
    with daemon(place, "state.vtpm", "--ctrl", "unix:c", "--log", "log") as pid:
        same(os.getsid(pid), pid)
        for fd in (0, 1, 2) if os.geteuid() == 0 else ():
            same(os.readlink("/proc/%d/fd/%d" % (pid, fd)), "/dev/null")
        with Control("c") as control:
            same(control.init(), 0)
            same(control.open_data().rc(startup()), 0)
            place.refused(6, ["[in-use]", "process %d" % pid], "state.vtpm")
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: gone(pid), "the daemon ends")
    place.ended_well()
    with daemon(place, "state.vtpm", "--ctrl", "unix:c", "--data", "unix:d", "--startup", "clear"):
        same(Tpm(connect("d")).rc(get_random()), 0)


def test_daemon_fails(place):
    """--daemon: a start that fails gives its exit status and says why on standard error"""
    place.create()
    for status, word, args in ((3, "state-missing", ["none.vtpm"]), (2, "usage", ["state.vtpm", "--data", "unix:."]),
                               (2, "usage", ["state.vtpm", "--startup", "maybe"]),
                               (3, "state-older", ["state.vtpm", "--at-least", "9.9"]),
                               (1, "failed", ["state.vtpm", "--startup", "state"])):
        done = run_daemon(place, *args, "--ctrl", "unix:c")
        same((done.returncode, done.stdout), (status, ""))
        contains(done.stderr, "vtpm run: [%s]" % word)
        true(not os.path.exists("c") and not os.path.exists("pid"), "socket or pid file are left behind")


def test_daemon_waits(place):
    """--daemon returns when the key is there, not before; and with the status of a key that cannot be had"""
    place.add_gate()
    place.create("state.vtpm", "--provider", "gate")
    place.gate("wait")
    asked = len(place.asked())
    line = [VTPM, "run", "state.vtpm", "--ctrl", "unix:c", "--daemon", "--pid-file", "pid", "--config", place.config,
            "--manage", "none"]
    starting = subprocess.Popen(line, env=place.env, preexec_fn=die_with_parent)
    wait_until(lambda: len(place.asked()) > asked, "the provider is asked")
    wait_until(lambda: os.path.exists("pid"), "the sockets stand")
    with Control("c") as control:
        same(control.call(GET_CAPABILITY, reply=8)[0], 0)
    same(starting.poll(), None)
    place.gate("open")
    same(starting.wait(LIMIT), 0)
    os.kill(int(read_file("pid")), signal.SIGTERM)
    wait_until(lambda: not os.path.exists("pid"), "the daemon ends")
    place.gate("error access-denied not for you")
    done = run_daemon(place, "state.vtpm", "--ctrl", "unix:c")
    same(done.returncode, 4)
    contains(done.stderr, "[access-denied]", "not for you")


def test_init_and_startup(place):
    """--init powers on by itself, --startup clear and state send TPM2_Startup too"""
    place.create()
    for args, codes in ((("--init",), 0x100), (("--startup", "clear"), 0), (("--init", "--startup", "clear"), 0)):
        device = place.start("state.vtpm", "--data", "unix:d", *args)
        same(Tpm(connect("d")).rc(get_random()), codes, "the first command of all")
        device.term()
    device = place.start("state.vtpm", "--data", "unix:d", "--startup", "state")  # the end before sent Shutdown(STATE)
    same(Tpm(connect("d")).rc(get_random()), 0, "it resumes")
    with device.control() as control:
        same(control.init(), 0, "INIT of a TPM that --init powered on is a reset")
        same(Tpm(connect("d")).rc(get_random()), 0x100)
    device.term()
    place.create("new.vtpm")
    device = place.start("new.vtpm", "--startup", "state", wait=False)
    device.ends(1, "TPM2_Startup")


def test_early_data(place):
    """--init: a data client that comes before the key waits for a TPM that is on; where none comes its connection ends"""
    place.add_gate()
    place.create("state.vtpm", "--provider", "gate")
    for passed in (False, True):
        place.gate("wait")
        asked = len(place.asked())
        ours, theirs = socket.socketpair()
        args = ("--data", "fd:%d" % theirs.fileno()) if passed else ("--data", "unix:d")
        device = place.start("state.vtpm", "--startup", "clear", *args, pass_fds=(theirs.fileno(),) if passed else ())
        theirs.close()
        data = Tpm(ours if passed else connect("d"))
        data.send(get_random())
        wait_until(lambda: len(place.asked()) > asked, "the provider is asked")
        same(select.select([data.sock], [], [], 0.3)[0], [], "an answer before there is a TPM")
        with device.control() as control:
            same(control.call(GET_CAPABILITY, reply=8)[0], 0, "meanwhile")
        place.gate("open")
        same(rc_of(data.read()), 0)
        same(data.rc(get_random()), 0)
        device.term()
    place.gate("error access-denied not for you")
    device = place.start("state.vtpm", "--data", "unix:d", "--init", wait=False)
    wait_until(lambda: os.path.exists("d"), "the sockets stand")
    with contextlib.suppress(OSError):  # it may be gone by now
        true(closed(connect("d")), "a connection to no TPM")
    device.ends(4, "[access-denied]")


def test_options_for_qemu(place):
    """on a terminal run prints the QEMU options to copy, elsewhere nothing"""
    place.create()
    master, slave = pty.openpty()
    process = subprocess.Popen([VTPM, "run", "state.vtpm", "--ctrl", "unix:c", "--manage", "none", "--config",
                                place.config], env=place.env, stdin=slave, stdout=slave, stderr=slave,
                               preexec_fn=die_with_parent)
    place.processes.append(process)
    os.close(slave)
    text = b""
    while b"tpmdev=" not in text:
        text += os.read(master, 4096)
    contains(text.decode(), "-chardev socket,id=chrtpm,path=c", "-tpmdev emulator,id=tpm0,chardev=chrtpm",
             "-device tpm-crb,tpmdev=tpm0")
    process.terminate()
    same(process.wait(LIMIT), 0)
    os.close(master)
    device = place.start()
    device.term()
    same(device.errors(), "")


def test_usage(place):
    """what makes no sense on the command line: exit 2, and nothing is made"""
    place.create()
    before = sorted(os.listdir("."))
    run = ["run", "state.vtpm", "--config", place.config]
    ctrl = ["--ctrl", "unix:c"]
    for line in (["run"], ["run", *ctrl], run, [*run, "--ctrl", "c"], [*run, "--ctrl", "unix:"], [*run, "--ctrl", "tcp:"],
                 [*run, "--ctrl", "tcp:0"], [*run, "--ctrl", "tcp:65536"], [*run, "--ctrl", "fd:"],
                 [*run, "--ctrl", "fd:x"], [*run, *ctrl, "--data", "c"], [*run, *ctrl, "more"], [*run, *ctrl, "--nonsense"],
                 [*run, *ctrl, "--vm-uuid", "x"], [*run, *ctrl, "--vm-uuid", "00000000-0000-0000-0000-000000000000"],
                 [*run, *ctrl, "--vm-uuid", "ffffffff-ffff-ffff-ffff-ffffffffffff"], [*run, *ctrl, "--at-least", "1"],
                 [*run, *ctrl, "--at-least", "1.2.3"], [*run, *ctrl, "--at-least", "a.b"], [*run, *ctrl, "--startup"],
                 [*run, *ctrl, "--startup", "warm"], [*run, *ctrl, "--create", "--incoming"],
                 [*run, *ctrl, "--manage", "tcp:5"], [*run, *ctrl, "--manage", "off"],
                 ["run", "state.vtpm", *ctrl, "--config", "none.conf"]):
        done = place.vtpm(*line)
        same((done.returncode, done.stdout), (2, ""), " ".join(line))
        contains(done.stderr, "[usage]")
        same(done.stderr.count("\n"), 1, done.stderr)
    same(sorted(os.listdir(".")), before)


def test_state_missing(place):
    """a state file that is not there: exit 3, state-missing, and nothing is made"""
    before = sorted(os.listdir("."))
    for args in ((), ("--init",), ("--vm-uuid", str(uuid.uuid4()))):
        place.refused(3, ["[state-missing]", "none.vtpm", "vtpm create"], "none.vtpm", *args)
        true(not os.path.exists("none.vtpm") and not os.path.exists("data"), "something was made")
    left = [name for name in os.listdir(".") if name not in before and not name.startswith("err-")]
    same(left, [])


def test_create(place):
    """--create makes a TPM bound to --vm-uuid where there is none, and never touches one that is there"""
    vm, other = str(uuid.uuid4()), str(uuid.uuid4())
    device = place.start("new.vtpm", "--create", "--vm-uuid", vm)
    control, data = device.powered()
    data.good(nv_define(INDEX, 4))
    data.good(nv_write(INDEX, b"kept"))
    device.term()
    same([r["vm_uuid"] for r in place.inspect("new.vtpm")["records"]], [vm])
    device = place.start("new.vtpm", "--create", "--vm-uuid", vm)
    control, data = device.powered()
    same(data.nv(INDEX, 4), b"kept")
    device.term()
    before = read_file("new.vtpm")
    place.refused(5, ["[identity-other]", vm, other], "new.vtpm", "--create", "--vm-uuid", other)
    same(read_file("new.vtpm"), before)
    write_file("new.vtpm", before[:1000])
    place.refused(3, ["[state-truncated]"], "new.vtpm", "--create", "--vm-uuid", vm)
    same(read_file("new.vtpm"), before[:1000])
    place.refused(2, ["[usage]"], "no/folder/new.vtpm", "--create")


def test_at_least(place):
    """--at-least refuses an older copy, changing nothing, and takes the same or a newer one"""
    place.create()
    device = place.start()
    device.powered()
    device.term()
    at = place.generation()
    before = read_file("state.vtpm")
    for older in ("1.%d" % (at + 1), "2.0", "18446744073709551615.0"):
        place.refused(3, ["[state-older]", "1.%d" % at, older], "state.vtpm", "--at-least", older)
    same(read_file("state.vtpm"), before)
    for fine in ("1.%d" % at, "1.1", "0.999999", "0.0"):
        place.start("state.vtpm", "--at-least", fine).term()
        same(place.generation(), at)


def test_second_process(place):
    """a second process on the same file: exit 6 and the first one's pid; the first one notices nothing"""
    place.create()
    device = place.start()
    control, data = device.powered()
    data.good(nv_define(INDEX, 4))
    for args in ((), ("--create",), ("--init",), ("--incoming",)):
        place.refused(6, ["[in-use]", "process %d" % device.pid, "state.vtpm"], "state.vtpm", *args)
    os.link("state.vtpm", "same.vtpm")
    place.refused(6, ["[in-use]", "process %d" % device.pid], "same.vtpm")
    done = place.vtpm("destroy", "--yes", "state.vtpm")
    same(done.returncode, 6, done.stderr)
    place.sound()  # reading is allowed
    data.good(nv_write(INDEX, b"more"))
    place.refused(6, ["[in-use]", "process %d" % device.pid], "state.vtpm")  # the readers took no lock away
    device.kill()
    place.start().term()


def test_identity(place):
    """bound by the first start with a UUID; another UUID is refused, both named, nothing changed; none is told"""
    vm, other = str(uuid.uuid4()), str(uuid.uuid4())
    place.create()
    device = place.start()
    device.powered()
    device.term()
    same([(r["epoch"], r["vm_uuid"]) for r in place.inspect()["records"]], [(1, None)])
    lacks(device.log(), "identity-unchecked")
    device = place.start("state.vtpm", "--vm-uuid", vm)
    control, data = device.powered()
    data.good(nv_define(INDEX, 4))
    device.term()
    same([(r["epoch"], r["vm_uuid"]) for r in place.inspect()["records"]], [(2, vm)])
    same({s["epoch"] for s in place.inspect()["state_slots"]}, {2})
    before = read_file("state.vtpm")
    for args in ((), ("--init",), ("--incoming",)):
        device = place.refused(5, ["[identity-other]", vm, other], "state.vtpm", "--vm-uuid", other, *args)
        same(device.errors().count("\n"), 1, device.errors())
    same(read_file("state.vtpm"), before)
    device = place.start("state.vtpm", "--vm-uuid", vm.upper())
    device.powered()
    device.term()
    device = place.start(log="unchecked")
    device.powered()
    device.term()
    contains(device.log(), "identity-unchecked", "state.vtpm")
    same([(r["epoch"], r["vm_uuid"]) for r in place.inspect()["records"]], [(2, vm)])


def test_identity_over_a_connection(place):
    """a client that is there already is told the code: INIT 0x0d for identity, 0x101 for a missing file; then it ends"""
    vm, other = str(uuid.uuid4()), str(uuid.uuid4())
    place.create("state.vtpm", "--vm-uuid", vm)
    for name, args, code, status in (("state.vtpm", ("--vm-uuid", other), KEY_NOT_FOUND, 5), ("none.vtpm", (), 0x101, 3)):
        ours, theirs = socket.socketpair()
        with Control(sock=ours) as client:
            client.send(words(GET_CAPABILITY) + words(INIT, 0))
            device = place.start(name, *args, ctrl="fd:%d" % theirs.fileno(), pass_fds=(theirs.fileno(),), wait=False)
            theirs.close()
            same(client.read(12)[8:], words(code))
        same(device.wait(), status)


if __name__ == "__main__":
    main(globals())
