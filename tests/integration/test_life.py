#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""How a running device lives and ends: signals, sockets, pid file, log, clients that close, the management socket."""
import fcntl
import os
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (GET_CAPABILITY, LIMIT, SHUTDOWN, STOP, VTPM, Control, contains, die_with_parent, main,  # noqa: E402
                    need_root, read_file, same, true, wait_until, write_file)
from tpm_bytes import create_primary_rsa, get_random, nv_define, nv_write, startup  # noqa: E402

INDEX = 0x01500001
NOBODY = 65534


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
            place.ended_well()
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
                place.ended_well()
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
    place.ended_well()


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_modes(place):
    """sockets, log and pid file are private whatever the umask; mode= is obeyed, nonsense is refused"""
    place.create()
    device = place.start("state.vtpm", "--data", "unix:d,mode=0660", "--manage", "unix:m", preexec=lambda: os.umask(0))
    same([mode_of(p) for p in (device.path, "d", "m", "log")], [0o600, 0o660, 0o600, 0o600])
    true(mode_of(device.pid_file) & 0o022 == 0, "others may write the pid file")
    device.term()
    for options in ("mode=0999", "mode=", "mode=01777", "uid=x", "uid=-1", "owner=1", "mode=0600,", ""):
        device = place.start("state.vtpm", ctrl="unix:bad," + options, wait=False, log=None)
        device.ends(2, "[usage]")
    true(not os.path.exists("bad"), "a socket was made")


def test_owner(place):
    """uid= and gid= of a socket are obeyed"""
    need_root()
    place.create()
    device = place.start("state.vtpm", ctrl="unix:owned,mode=0620,uid=%d,gid=%d" % (NOBODY, NOBODY))
    info = os.stat("owned")
    same((info.st_uid, info.st_gid, mode_of("owned")), (NOBODY, NOBODY, 0o620))
    device.term()


def test_pid_file(place):
    """the pid file: written and locked once the sockets listen, an old one is taken over, a held one is not"""
    place.create()
    place.create("other.vtpm")
    write_file("pid", b"99999999\n")
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
    with open("pid", "rb") as file:  # as one that ends: it lets go a moment later, and removes it before
        fcntl.flock(file, fcntl.LOCK_EX)
        ending = threading.Timer(0.15, lambda: (os.unlink("pid"), fcntl.flock(file, fcntl.LOCK_UN)))
        ending.start()
        device = place.start(pid_file="pid")
        ending.join()
    same(read_file("pid"), b"%d\n" % device.pid)
    device.term()
    true(not os.path.exists("pid"), "the pid file is removed at the end")
    for path in ("nowhere/pid", "."):
        device = place.refused(1, ["[failed]", path], "state.vtpm", pid_file=path)
        true(not os.path.exists(device.path), "the socket stays behind")


def test_few_descriptors(place):
    """with hardly a descriptor left a start ends, or serves; it does not hang"""
    place.create()
    for limit in range(4, 20):
        with subprocess.Popen([VTPM, "run", "state.vtpm", "--ctrl", "unix:few", "--manage", "none", "--pid-file", "few.pid",
                               "--config", place.config], env=place.env, stderr=subprocess.PIPE,
                              preexec_fn=lambda n=limit: resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))) as process:
            try:
                wait_until(lambda p=process: p.poll() is not None or os.path.exists("few.pid"), "%d descriptors" % limit)
                process.terminate()
                process.wait(LIMIT)
            finally:
                process.kill()
    place.sound()


def test_killed_and_started(place):
    """kill -9 and at once the next start, before the kernel is done with the first: it starts, with the same pid file and
    with another"""
    place.create()
    for number in range(30):
        device = place.start(pid_file="pid%d" % (number % 2))
        device.powered()
        os.kill(device.pid, signal.SIGKILL)
        device = place.start(pid_file="pid%d" % (number // 2 % 2))
        device.powered()
        device.term()


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


def test_default_management_of_the_open_file(place):
    """the file is replaced while the provider is still asked: the socket is named after the one that is open"""
    place.add_gate()
    place.create("state.vtpm", "--provider", "gate")
    shutil.copy("state.vtpm", "restored.vtpm")
    place.gate("wait")
    before = len(place.asked())
    line = [VTPM, "run", "state.vtpm", "--ctrl", "unix:c", "--config", place.config, "--log", "log"]
    process = subprocess.Popen(line, env=place.env, preexec_fn=die_with_parent)
    place.processes.append(process)
    wait_until(lambda: len(place.asked()) > before, "the provider is asked")
    opened = os.stat("state.vtpm")
    os.rename("restored.vtpm", "state.vtpm")
    place.gate("open")
    sockets = os.path.join(place.data_dir, "run")
    wait_until(lambda: os.path.exists(sockets) and os.listdir(sockets), "a management socket")
    same(os.listdir(sockets), ["%x-%x" % (opened.st_dev, opened.st_ino)])
    process.terminate()
    same(process.wait(LIMIT), 0)


if __name__ == "__main__":
    main(globals())
