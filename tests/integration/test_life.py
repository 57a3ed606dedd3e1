#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""How `vtpm run` starts, lives and ends: sockets, pid file, log, daemon, signals, the wait for the key, exit codes."""
import contextlib
import fcntl
import os
import pty
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import uuid

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (GET_CAPABILITY, INIT, IO_ERROR, KEY_NOT_FOUND, LIMIT, LOCK_STORAGE, PERMANENT, RC_FAILURE,  # noqa: E402
                    SHUTDOWN, STOP, VTPM, Control, Tpm, closed, connect, contains, create_primary_rsa, die_with_parent,
                    get_random, lacks, main, need_root, nv_define, nv_write, read_clock, read_file, rc_of, same, startup,
                    true, wait_until, words, write_file)

INDEX = 0x01500001
NOBODY = 65534


def ended_well(place, name="state.vtpm"):
    """Both slots hold the same orderly end."""
    slots = place.inspect(name)["state_slots"]
    same([(s["final"], s["generation"]) for s in slots], [(True, slots[0]["generation"])] * 2)
    place.sound(name)


def children(pid):
    return read_file("/proc/%d/task/%d/children" % (pid, pid)).split()


def test_ends(place):
    """SIGTERM, SIGINT and CMD_SHUTDOWN end it with exit 0, the last state in both slots: off, on, started, busy"""
    place.create()
    for how in (signal.SIGTERM, signal.SIGINT, SHUTDOWN):
        for phase in range(6):
            device = place.start()
            control = device.control()
            data = control.open_data()
            if phase > 0:
                same(control.init(), 0)
            if phase > 1:
                same(data.rc(startup()), 0)
            if phase == 3:
                same(control.result(STOP), 0)
            if phase == 4:
                data.send(create_primary_rsa(b"busy"))
                time.sleep(0.003)
            if phase == 5:
                data.send(get_random()[:5])
            if how == SHUTDOWN:
                same(control.result(SHUTDOWN), 0)
            else:
                device.process.send_signal(how)
            same(device.wait(), 0, device.errors())
            ended_well(place)
            true(not os.path.exists(device.path), "the socket is removed at the end")
            true(not os.path.exists(device.pid_file), "the pid file is removed at the end")


def test_two_boots(place):
    """what the guest wrote is there after every kind of end, and in another process"""
    place.create()
    device = place.start()
    control, data = device.powered()
    data.good(nv_define(INDEX, 4))
    for number in range(6):
        data.good(nv_write(INDEX, b"%04d" % number))
        if number % 3 == 0:
            device.term()
        elif number % 3 == 1:
            same(control.result(SHUTDOWN), 0)
            same(device.wait(), 0)
        else:
            device.kill()
        device = place.start()
        control, data = device.powered()
        same(data.nv(INDEX, 4), b"%04d" % number)


def test_terminate(place):
    """--terminate: losing the control or the data connection ends it as SIGTERM does; without it neither does"""
    place.create()
    for args in ((), ("--terminate",)):
        for lost in ("control", "data"):
            device = place.start("state.vtpm", *args)
            control, data = device.powered()
            (control if lost == "control" else data).close()
            if args:
                same(device.wait(), 0, device.errors())
                ended_well(place)
                continue
            time.sleep(0.1)
            if lost == "control":
                data.good(get_random())
            else:
                control.open_data().good(get_random())
            device.term()


def test_terminate_and_a_second_start(place):
    """a second start that tries the socket of a --terminate device neither ends nor disturbs it"""
    place.create()
    place.create("other.vtpm")
    device = place.start("state.vtpm", "--terminate")
    second = place.start("other.vtpm", ctrl="unix:" + device.path, wait=False, log=None)
    second.ends(6, "[socket-in-use]", device.path)
    control, data = device.powered()
    second = place.start("other.vtpm", ctrl="unix:" + device.path, wait=False, log=None)
    second.ends(6, "[socket-in-use]", device.path)
    data.good(get_random())
    same(control.result(SHUTDOWN), 0)
    same(device.wait(), 0)


def test_socket_paths(place):
    """a socket path that exists: nobody answers there, it is replaced; not a socket, exit 2 and left alone"""
    place.create()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind("stale")
    device = place.start("state.vtpm", ctrl="unix:stale")
    with Control("stale") as control:
        same(control.init(), 0)
    device.kill()
    true(os.path.exists("stale"), "what a killed process leaves")
    device = place.start("state.vtpm", ctrl="unix:stale", log=None)
    device.term()
    write_file("file", b"mine")
    os.mkdir("folder")
    os.symlink("file", "link")
    for path in ("file", "folder", "link", "file/below"):
        for ctrl, args in (("unix:" + path, ()), ("unix:good", ("--data", "unix:" + path)),
                           ("unix:good", ("--manage", "unix:" + path))):
            device = place.start("state.vtpm", *args, ctrl=ctrl, wait=False, log=None)
            true(device.wait() in ((2,) if "/" not in path else (1, 2)), "exit %d" % device.wait())
            contains(device.errors(), path)
            true(not os.path.exists("good"), "the socket made before is removed")
    same((read_file("file"), os.listdir("folder"), os.readlink("link")), (b"mine", [], "file"))
    device = place.start("state.vtpm", ctrl="unix:" + "x" * 108, wait=False, log=None)
    device.ends(2, "[usage]")
    ended_well(place)


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_modes(place):
    """sockets, log and pid file are private whatever the umask; mode=, uid= and gid= of a socket are obeyed"""
    place.create()
    device = place.start("state.vtpm", "--data", "unix:d,mode=0660", "--manage", "unix:m", preexec=lambda: os.umask(0))
    same([mode_of(p) for p in (device.path, "d", "m", "log")], [0o600, 0o660, 0o600, 0o600])
    true(mode_of(device.pid_file) & 0o022 == 0, "others may write the pid file")
    device.term()
    for options in ("mode=0999", "mode=", "mode=01777", "uid=x", "uid=-1", "owner=1", "mode=0600,", ""):
        device = place.start("state.vtpm", ctrl="unix:bad," + options, wait=False, log=None)
        device.ends(2, "[usage]")
    true(not os.path.exists("bad"), "a socket was made")
    need_root()
    device = place.start("state.vtpm", ctrl="unix:owned,mode=0620,uid=%d,gid=%d" % (NOBODY, NOBODY))
    info = os.stat("owned")
    same((info.st_uid, info.st_gid, mode_of("owned")), (NOBODY, NOBODY, 0o620))
    device.term()


def test_pid_file(place):
    """the pid file: written and locked once the sockets listen, an old one is taken over, a held one is not"""
    place.create()
    place.create("other.vtpm")
    write_file("pid", b"99999999 old\n")
    device = place.start(pid_file="pid")
    same(read_file("pid"), b"%d\n" % device.pid)
    with open("pid", "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            raise AssertionError("the pid file is not locked")
        except BlockingIOError:
            pass
    place.refused(6, ["[in-use]", "pid"], "other.vtpm", pid_file="pid")
    same(read_file("pid"), b"%d\n" % device.pid)
    device.kill()
    device = place.start(pid_file="pid")
    device.term()
    true(not os.path.exists("pid"), "the pid file is removed at the end")
    for path in ("nowhere/pid", "."):
        device = place.refused(1, ["[failed]", path], "state.vtpm", pid_file=path)
        true(not os.path.exists(device.path), "the socket stays behind")


def test_log(place):
    """the log is appended to, also after copytruncate; - is standard error; levels; one that cannot be opened"""
    place.create()
    write_file("log", b"before\n")
    device = place.start("state.vtpm", "--log-level", "debug")
    control = device.control()
    same(control.init(), 0)
    text = device.log()
    true(text.startswith("before\n"), "the log was not appended to")
    for line in text.splitlines()[1:]:
        true(re.match(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (error|warning|info|debug): .+", line), line)
    os.truncate("log", 0)
    same(control.result(STOP), 0)
    wait_until(lambda: os.path.getsize("log") > 0, "the log goes on")
    true(b"\0" not in read_file("log"), "a hole after copytruncate")
    device.term()
    device = place.start("state.vtpm", "--log-level", "debug", log="-")
    with device.control() as control:
        same(control.init(), 0)
    device.term()
    contains(device.errors(), "debug: ")
    device = place.start("state.vtpm", "--log-level", "error", log="quiet")
    device.powered()
    device.term()
    same(read_file("quiet"), b"")
    place.refused(1, ["[failed]", "nowhere/log"], "state.vtpm", "--log", "nowhere/log")
    place.refused(2, ["[usage]"], "state.vtpm", "--log-level", "loud")


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


def gone(pid):
    """Ended; whoever became its parent may not have asked for it yet."""
    try:
        return read_file("/proc/%d/stat" % pid).rsplit(b")")[1].split()[0] == b"Z"
    except FileNotFoundError:
        return True


def test_daemon(place):
    """--daemon returns 0 when the TPM can be used, holds no output, terminal or session of its caller's"""
    place.create()
    with daemon(place, "state.vtpm", "--ctrl", "unix:c", "--log", "log") as pid:
        same(os.getsid(pid), pid)
        for fd in (0, 1, 2):
            same(os.readlink("/proc/%d/fd/%d" % (pid, fd)), "/dev/null")
        with Control("c") as control:
            same(control.init(), 0)
            same(control.open_data().rc(startup()), 0)
            place.refused(6, ["[in-use]", "process %d" % pid], "state.vtpm")
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: gone(pid), "the daemon ends")
    ended_well(place)
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
    line = [VTPM, "run", "state.vtpm", "--ctrl", "unix:c", "--daemon", "--pid-file", "pid", "--config", place.config,
            "--manage", "none"]
    starting = subprocess.Popen(line, env=place.env, preexec_fn=die_with_parent)
    wait_until(lambda: len(place.asked()) > 1, "the provider is asked")
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
        wait_until(lambda: Tpm(connect("d")).rc(get_random()) != RC_FAILURE, "it powers on")
        same(Tpm(connect("d")).rc(get_random()), codes)
        device.term()
    device = place.start("state.vtpm", "--data", "unix:d", "--startup", "state")  # the end before sent Shutdown(STATE)
    wait_until(lambda: Tpm(connect("d")).rc(get_random()) == 0, "it resumes")
    with device.control() as control:
        same(control.init(), 0, "INIT of a TPM that --init powered on is a reset")
        same(Tpm(connect("d")).rc(get_random()), 0x100)
    device.term()
    place.create("new.vtpm")
    device = place.start("new.vtpm", "--startup", "state", wait=False)
    device.ends(1, "TPM2_Startup")


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


def slow_state(place):
    place.add_gate()
    place.create("state.vtpm", "--provider", "gate")
    place.gate("wait")


def test_slow_provider(place):
    """while the provider is slow: sockets stand, control answers, data answers 0x101, INIT waits and succeeds"""
    slow_state(place)
    place.configure("init-wait=60\n")
    device = place.start("state.vtpm", "--data", "unix:d")
    control = device.control()
    wait_until(lambda: [a for a in place.asked() if a[0] == "unwrap" and len(place.asked()) > 1], "the provider is asked")
    data = Tpm(connect("d"))
    for _ in range(3):
        same(control.call(GET_CAPABILITY, reply=8)[0], 0)
        response = data.run(read_clock())
        same((response[:2], rc_of(response)), (b"\x80\1", RC_FAILURE))
        same(control.result(STOP), 0)
        same(control.call(17, words(0xF80), 16)[:2], (0, 0xF80))
        same(control.call(4, reply=8), (0, 0))
        same(control.result(LOCK_STORAGE, words(0)), IO_ERROR)
        same(control.get_blob(PERMANENT)[0] != 0, True)
    control.send(words(INIT, 0) + words(GET_CAPABILITY))
    control.sock.settimeout(0.3)
    try:
        raise AssertionError("INIT did not wait: %r" % control.sock.recv(4))
    except TimeoutError:
        pass
    same(data.rc(read_clock()), RC_FAILURE)
    place.gate("open")
    control.sock.settimeout(LIMIT)
    same(control.read(12)[:8], words(0, 0))
    same(data.rc(startup()), 0)
    device.term()


def test_init_wait(place):
    """INIT fails with 0x0d after init-wait; a later one that finds the key there succeeds"""
    slow_state(place)
    place.configure("init-wait=0.5\n")
    device = place.start()
    control = device.control()
    for _ in range(2):
        begin = time.monotonic()
        same(control.init(), KEY_NOT_FOUND)
        true(0.45 < time.monotonic() - begin < 5, "INIT waited %.1f s" % (time.monotonic() - begin))
        same(control.call(GET_CAPABILITY, reply=8)[0], 0)
    contains(device.log(), "provider-timeout")
    control.send(words(INIT, 0))
    control.close()  # while it waits
    control = device.control()
    place.gate("open")
    data = control.open_data()
    wait_until(lambda: control.init() == 0, "the key is there")
    same(data.rc(startup()), 0)
    device.term()


def test_provider_fails(place):
    """a provider that fails: INIT answers the code of its word at once, the process ends with its exit status"""
    slow_state(place)
    place.configure("init-wait=20\n")
    for mode, code, word in (("error provider-unreachable no route", 0x0D, "provider-unreachable"),
                             ("error wrong-passphrase try again", 0x21, "wrong-passphrase"),
                             ("error key-destroyed for good", 0x0D, "key-destroyed"), ("die", 0x0D, "provider-failed"),
                             ("garbage", 0x0D, "key-slot-damaged"), ("foreign", 0x0D, "key-slot-damaged")):
        before = read_file("state.vtpm")
        for early in (True, False):
            place.gate("wait")
            device = place.start(log=word)
            control = device.control()
            if early:
                control.send(words(INIT, 0))
                time.sleep(0.05)
            place.gate(mode)
            if not early:
                wait_until(lambda: word in device.errors(), "the failure is told: " + mode)
                same(control.call(GET_CAPABILITY, reply=8)[0], 0)
                control.send(words(INIT, 0))
            same(control.read(4), words(code), mode)
            control.close()
            device.ends(4, "[%s]" % word)
            same(len([line for line in device.errors().splitlines() if "[%s]" % word in line]), 1, device.errors())
            contains(device.log(), "[%s]" % word)
        same(read_file("state.vtpm"), before)


def test_provider_fails_alone(place):
    """a provider that fails and nobody connects: it ends after init-wait; with --init at once; SIGTERM ends it too"""
    slow_state(place)
    place.gate("error access-denied no")
    place.configure("init-wait=1\n")
    begin = time.monotonic()
    place.refused(4, ["[access-denied]"], "state.vtpm", config=place.config)
    true(0.9 < time.monotonic() - begin < 15, "it took %.1f s" % (time.monotonic() - begin))
    place.configure("init-wait=60\n")
    place.refused(4, ["[access-denied]"], "state.vtpm", "--init", limit=15, config=place.config)
    place.refused(4, ["[access-denied]"], "state.vtpm", "--startup", "clear", limit=15, config=place.config)
    device = place.start()
    wait_until(lambda: "access-denied" in device.errors(), "the failure is told")
    device.term(4)


def test_end_while_waiting(place):
    """SIGTERM and SHUTDOWN while a provider is silent end it at once, and nobody keeps the file or lives on"""
    slow_state(place)
    place.configure("init-wait=60\n")
    for mode in ("wait", "hang"):
        place.gate(mode)
        for how in ("term", "shutdown", "kill"):
            asked = len(place.asked())
            device = place.start()
            wait_until(lambda: len(place.asked()) > asked, "the provider is asked")
            time.sleep(0.05)
            begin = time.monotonic()
            if how == "term":
                device.term()
            elif how == "kill":
                device.kill()
            else:
                with device.control() as control:
                    same(control.result(SHUTDOWN), 0)
                same(device.wait(), 0)
            true(time.monotonic() - begin < 5, "it took %.1f s" % (time.monotonic() - begin))
            helper = int(place.asked()[-1][1])
            if mode == "wait":
                wait_until(lambda: gone(helper), "the helper ends")
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(helper, signal.SIGKILL)
            free(place)
            same(place.inspect()["problems"], [])


def free(place):
    """Nobody holds the state file's owner lock."""
    def locked():
        inode = os.stat("state.vtpm").st_ino
        return any(line.split()[5].endswith(":%d" % inode) for line in open("/proc/locks"))
    wait_until(lambda: not locked(), "the lock is free")


def test_helper_inherits_nothing(place):
    """a helper has three descriptors and no lock: not the sockets, the state file or the log"""
    slow_state(place)
    place.gate("open")
    device = place.start("state.vtpm", "--data", "unix:d", "--manage", "unix:m")
    device.control().close()
    wait_until(lambda: len(place.asked()) > 1, "the provider is asked")
    same({a[2] for a in place.asked()}, {"0,1,2"})
    device.term()


def test_broker_ends(place):
    """the broker stays until the first command after an INIT; --init counts as one"""
    place.create()
    device = place.start()
    control = device.control()
    data = control.open_data()
    same(data.rc(read_clock()), RC_FAILURE)
    same(control.init(), 0)
    time.sleep(0.05)
    same(len(children(device.pid)), 1)
    same(data.rc(startup()), 0)
    wait_until(lambda: not children(device.pid), "the broker ends")
    same(control.init(), 0)
    data.good(startup())
    device.term()
    device = place.start("state.vtpm", "--data", "unix:d", "--startup", "clear")
    wait_until(lambda: Tpm(connect("d")).rc(get_random()) == 0, "it is powered on")
    wait_until(lambda: not children(device.pid), "the broker ends")


def test_broker_dies(place):
    """without its broker a device whose key is there goes on; one that waits for the key fails"""
    place.create()
    device = place.start()
    control = device.control()
    same(control.init(), 0)
    os.kill(int(children(device.pid)[0]), signal.SIGKILL)
    data = control.open_data()
    same(data.rc(startup()), 0)
    blobs = control.pair()
    same(control.load(*blobs), 0, "blobs of this epoch need no broker")
    device.term()
    place.add_gate()
    place.create("slow.vtpm", "--provider", "gate")
    place.gate("wait")
    device = place.start("slow.vtpm")
    control = device.control()
    control.send(words(INIT, 0))
    wait_until(lambda: len(place.asked()) > 1, "the provider is asked")
    os.kill(int(children(device.pid)[0]), signal.SIGKILL)
    same(control.read(4), words(0x101))
    control.close()
    same(device.wait(), 1)


def ask_management(path, request, user=None):
    """The answer, or None when the connection was closed without one."""
    program = ("import socket,sys;s=socket.socket(socket.AF_UNIX);s.connect(sys.argv[1]);s.sendall(sys.argv[2].encode());"
               "s.settimeout(10);sys.stdout.write(s.recv(4096).decode())")
    done = subprocess.run(["/usr/bin/python3", "-c", program, path, request], capture_output=True, text=True,
                          timeout=LIMIT, check=False, user=user, group=user)
    return done.stdout or None


def test_management(place):
    """--manage: status for root and the uid named, for nobody else; nonsense and silence harm nothing"""
    place.create()
    need_root()
    os.chmod(place.folder, 0o755)
    device = place.start("state.vtpm", "--manage", "unix:m,uid=%d,mode=0666" % NOBODY)
    control, data = device.powered()
    vtpm_id = place.inspect()["records"][0]["vtpm_id"]
    for user in (None, NOBODY):
        answer = ask_management("m", "status\n", user)
        contains(answer, "ok state=open", vtpm_id, "epoch=1", "power=on", "commit=durable")
    same(ask_management("m", "status\n", 1), None)
    contains(ask_management("m", "dek\n"), "error usage")
    same(ask_management("m", "x" * 5000 + "\n"), None)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect("m")
        silent.send(b"sta")
        begin = time.monotonic()
        same(control.call(GET_CAPABILITY, reply=8)[0], 0)
        true(time.monotonic() - begin < 2, "a silent management client holds up the control channel")
        data.good(get_random())
    device.term()
    true(not os.path.exists("m"), "the socket is removed")


def test_default_management(place):
    """without --manage the socket is named after the file, below the data folder; where it cannot be made, a warning"""
    place.create()
    line = [VTPM, "run", "state.vtpm", "--ctrl", "unix:c", "--config", place.config, "--log", "log"]
    info = os.stat("state.vtpm")
    path = os.path.join(place.data_dir, "run", "%x-%x" % (info.st_dev, info.st_ino))

    def start():
        process = subprocess.Popen(line, env=place.env, preexec_fn=die_with_parent)
        place.processes.append(process)
        wait_until(lambda: os.path.exists("c"), "it listens")
        return process

    process = start()
    wait_until(lambda: os.path.exists(path), path)
    same((mode_of(path), mode_of(os.path.dirname(path))), (0o600, 0o700))
    contains(ask_management(path, "status\n") or "ok (not root)", "ok")
    process.terminate()
    same(process.wait(LIMIT), 0)
    os.rmdir(os.path.dirname(path))
    write_file(os.path.dirname(path), b"in the way")
    process = start()
    with Control("c") as control:
        same(control.init(), 0)
    process.terminate()
    same(process.wait(LIMIT), 0)
    contains(read_file("log").decode(), "warning: no management socket")
    place.refused(1, [], "state.vtpm", "--manage", "unix:nowhere/m")


if __name__ == "__main__":
    main(globals())
