#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""vtpm run as a service: what it tells the service manager (sd_notify), the socket that it is given (sd_listen_fds),
the priorities of its lines in the journal (sd-daemon), and the units of the package."""
import contextlib
import os
import re
import shutil
import socket
import stat
import subprocess
import time

from device import (INIT, KEY_NOT_FOUND, LIMIT, SHUTDOWN, VTPM, Control, Skip, contains, die_with_parent, lacks, main, need_root,
                    same, true, wait_until, words, write_file)
from package import build, copy_of_host

VM = "7d444840-9dc0-41d1-b245-5ffdce74fad2"


class Manager:
    """The end of the notification protocol that systemd has."""

    def __init__(self, address):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(address.replace("@", "\0", 1))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.sock.settimeout(LIMIT)
        self.env = {"NOTIFY_SOCKET": address}
        self.values, self.senders = {}, set()

    def next(self):
        data, extra, _, _ = self.sock.recvmsg(4096, 256)
        self.senders.add(int.from_bytes(extra[0][2][:4], "little"))
        lines = [line.split("=", 1) for line in data.decode().splitlines()]
        self.values.update(lines)
        return [name for name, _ in lines]

    def wait_for(self, name, value=None):
        end = time.monotonic() + LIMIT
        while name not in self.values or value not in (None, self.values[name]):
            true(time.monotonic() < end, "told was %r" % self.values)
            self.next()
        return self.values[name]


def listener(path="service.sock"):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(4)
    return sock


def activated(place, sock, *args, state="state.vtpm", variables="LISTEN_PID=$$ LISTEN_FDS=1", count=1, **options):
    """A device that systemd would have started: the socket as descriptor 3, the variables that go with it."""
    def give():
        for number in range(count):
            os.dup2(sock.fileno(), 3 + number)
    return place.start(state, *args, ctrl="activated", preexec=give, pass_fds=tuple(range(3, 3 + count)), wait=False,
                       prefix=("sh", "-c", variables + ' exec "$@"', "sh"), **options)


def test_notify(place):
    """READY when the sockets stand, STATUS in words, STOPPING at the end; all from the process that was started"""
    place.create()
    manager = Manager(os.path.abspath("notify"))
    device = place.start("state.vtpm", env=manager.env)
    manager.wait_for("READY", "1")
    manager.wait_for("STATUS", "serving the TPM")
    true("STOPPING" not in manager.values, "it says that it ends")
    device.powered()[0].close()
    device.term()
    manager.wait_for("STOPPING", "1")
    same(manager.senders, {device.pid})


def test_notify_abstract(place):
    """A notification socket that is in no file system"""
    place.create()
    manager = Manager("@vtpm-test-%d" % os.getpid())
    device = place.start("state.vtpm", env=manager.env)
    manager.wait_for("READY", "1")
    device.control().result(SHUTDOWN)
    same(device.wait(), 0)
    manager.wait_for("STOPPING", "1")


def test_ready_without_key(place):
    """READY does not wait for the key provider, and no helper program inherits the way to the manager"""
    place.add_gate()
    place.create("state.vtpm", "--provider", "gate")
    place.gate("wait")
    before = len(place.asked())
    manager = Manager(os.path.abspath("notify"))
    device = place.start("state.vtpm", env=manager.env)
    manager.wait_for("READY", "1")
    same(manager.values["STATUS"], "waiting for the key")
    wait_until(lambda: len(place.asked()) > before, "the provider is asked")
    helper = place.asked()[-1][1]
    with open("/proc/%s/environ" % helper, "rb") as file:
        variables = file.read()
    contains(variables, b"VTPM_DATA_DIR=")
    lacks(variables, b"NOTIFY_SOCKET")
    place.gate("open")
    manager.wait_for("STATUS", "serving the TPM")
    device.term()


def test_failure_is_told(place):
    """A start that fails has its word in STATUS"""
    place.add_gate()
    place.create("state.vtpm", "--provider", "gate")
    place.gate("error unreachable the cable is out")
    manager = Manager(os.path.abspath("notify"))
    device = place.start("state.vtpm", env=manager.env, config=place.hasty, wait=False)
    same(device.wait(), 4, device.errors())
    while "provider-failed" not in manager.values.get("STATUS", ""):
        manager.next()
    contains(manager.values["STATUS"], "the cable is out")


def test_no_manager(place):
    """A manager that is not there, or an address that is none: the TPM is served all the same"""
    place.create()
    for address in ("/nowhere/at all", "relative", "@", "/" + "x" * 200, ""):
        device = place.start("state.vtpm", env={"NOTIFY_SOCKET": address})
        device.powered()[0].close()
        device.term()
    manager = Manager(os.path.abspath("notify"))
    device = place.start("state.vtpm", env=manager.env)
    manager.wait_for("STATUS", "serving the TPM")
    manager.sock.close()
    device.term()


def fill(manager):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    with sock, contextlib.suppress(BlockingIOError):
        for _ in range(100000):
            sock.sendto(b"X=", manager.env["NOTIFY_SOCKET"])


def test_full_manager(place):
    """A manager that reads nothing holds nobody up for long"""
    place.create()
    manager = Manager(os.path.abspath("notify"))
    fill(manager)
    device = place.start("state.vtpm", env=manager.env)
    device.powered()[0].close()
    device.term()


def test_busy_manager(place):
    """A manager that has much to read, and reads it late, is told READY all the same: it ends whom it did not hear"""
    place.create()
    manager = Manager(os.path.abspath("notify"))
    fill(manager)
    device = place.start("state.vtpm", env=manager.env)
    time.sleep(0.5)
    manager.wait_for("READY", "1")
    device.powered()[0].close()
    device.term()


def test_activated(place):
    """A client that comes before the process is served; the socket outlives it, and serves the next one's clients"""
    place.create()
    with listener() as sock:
        for _ in range(2):
            with Control("service.sock") as control:
                device = activated(place, sock, "--terminate")
                data = control.open_data()
                same(control.init(), 0, "INIT")
                data.close()
            same(device.wait(), 0, device.errors())
            true(stat.S_ISSOCK(os.stat("service.sock").st_mode), "the socket is gone")
    place.ended_well()


def test_activated_failure(place):
    """A start that fails is told to the client that woke it, so that it is not woken for ever"""
    with listener() as sock, Control("service.sock") as control:
        device = activated(place, sock, state="missing.vtpm", config=place.config)
        control.send(words(INIT, 0))
        same(int.from_bytes(control.read(4), "big"), 0x101)
        control.close()
        device.ends(3, "state-missing")
        true(not os.path.exists("missing.vtpm"), "a state was made")
    place.add_gate()
    place.create("state.vtpm", "--provider", "gate")
    place.gate("error denied not you")
    os.unlink("service.sock")
    with listener() as sock, Control("service.sock") as control:
        device = activated(place, sock)
        same(control.init(), KEY_NOT_FOUND)
        control.close()
        same(device.wait(), 4, device.errors())


def test_activated_mistake(place):
    """What is wrong before a TPM is served, an option, a file that is named, the configuration: who waits is turned away,
    and would wake it again otherwise"""
    place.create()
    write_file("bad.conf", b"[vtpm]\ninit-wait=soon\n")
    for pieces, args, config in ((["[usage]", "nonsense"], ["--nonsense"], None), (["[usage]"], ["--vm-uuid", "web"], None),
                                 (["[usage]", "endpoint"], ["--data", "nowhere"], None),
                                 (["nowhere/log"], ["--log", "nowhere/log"], None), (["init-wait"], [], "bad.conf")):
        with contextlib.suppress(FileNotFoundError):
            os.unlink("service.sock")
        with listener() as sock, Control("service.sock") as first, Control("service.sock") as second:
            device = activated(place, sock, *args, config=config)
            contains(device.errors() if device.wait() else "it served", *pieces)
            same([first.sock.recv(1), second.sock.recv(1)], [b"", b""])
            sock.setblocking(False)
            try:
                sock.accept()
            except BlockingIOError:
                continue
            raise AssertionError("somebody still waits")


def test_not_activated(place):
    """'activated' without a socket, with two, with another process' variables, or with what is no socket: usage"""
    place.create()
    place.refused(2, ["[usage]", "0 came"], "state.vtpm", ctrl="activated")
    with listener() as sock:
        for variables, count, words_wanted in (("LISTEN_PID=1 LISTEN_FDS=1", 1, "0 came"),
                                               ("LISTEN_PID=$$", 1, "0 came"),
                                               ("LISTEN_PID=$$ LISTEN_FDS=-1", 1, "0 came"),
                                               ("LISTEN_PID=$$ LISTEN_FDS=2", 2, "2 came")):
            activated(place, sock, variables=variables, count=count).ends(2, "[usage]", words_wanted)
    with open("file", "wb") as file:
        activated(place, file).ends(2, "[usage]", "no socket")


def run_with_stderr(place, stream_of):
    """What a device that starts and ends says on a standard error that is a pipe; STREAM_OF makes JOURNAL_STREAM."""
    ours, theirs = os.pipe()
    info = os.fstat(theirs)
    env = dict(place.env, JOURNAL_STREAM=stream_of(info), VTPM_DATA_DIR=place.data_dir)
    with os.fdopen(ours, "r", encoding="utf-8") as reader:
        device = subprocess.Popen([VTPM, "run", "state.vtpm", "--ctrl", "unix:j.sock", "--config", place.config,
                                   "--manage", "none", "--pid-file", "j.pid", "--log-level", "debug"], stdin=subprocess.DEVNULL, stderr=theirs,
                                  env=env, preexec_fn=die_with_parent)
        place.processes.append(device)
        os.close(theirs)
        wait_until(lambda: os.path.exists("j.pid"), "the socket listens")
        with Control("j.sock") as control:
            same(control.init(), 0)
            same(control.result(SHUTDOWN), 0)
        same(device.wait(LIMIT), 0)
        return reader.read().splitlines()


def test_journal(place):
    """Lines for the journal begin with their priority; for a file, or where JOURNAL_STREAM means another, they do not"""
    place.create("state.vtpm", "--vm-uuid", VM)
    lines = run_with_stderr(place, lambda info: "%d:%d" % (info.st_dev, info.st_ino))
    levels = {"error": "3", "warning": "4", "info": "6", "debug": "7"}
    true(any(line.startswith("<6>info: identity-unchecked") for line in lines), lines)
    for line in lines:
        match = re.match(r"<(\d)>(\w+): ", line)
        true(match and levels[match.group(2)] == match.group(1), line)
    for stream in ("%d:%d", "nonsense", ""):
        lines = run_with_stderr(place, lambda info: stream % (info.st_dev, info.st_ino + 1) if "%" in stream else stream)
        true(lines and not any(line.startswith("<") for line in lines), lines)


def connected(path):
    """A client's connection, as soon as somebody listens."""
    found = []

    def try_it():
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            found.append(Control(path))
        return found
    wait_until(try_it, "somebody listens at " + path)
    return found[0]


def unit(folder, name):
    """Its lines KEY=VALUE."""
    with open(os.path.join(folder, "usr/lib/systemd/system", name), encoding="utf-8") as file:
        return re.findall(r"^(\w+)=(.*)$", file.read(), re.M)


def test_units(_place):
    """systemd takes the units; the service's command line, run as its user behind systemd's socket, serves a TPM"""
    need_root()
    for program in ("systemd-analyze", "systemd-socket-activate"):
        if not shutil.which(program):
            raise Skip(program + " is not installed")
    package = build()
    subprocess.run(["dpkg-deb", "-x", package, "unpacked"], check=True, timeout=60)
    service, sockets = unit("unpacked", "vtpm@.service"), dict(unit("unpacked", "vtpm@.socket"))
    service = dict(service)
    with copy_of_host() as host:
        same(host.run("dpkg", "-i", package).returncode, 0)
        done = host.run("systemd-analyze", "verify", "--man=no", "vtpm@web.service", "vtpm@web.socket")
        ours = [line for line in done.stdout.splitlines() if "vtpm" in line]
        same((done.returncode, ours), (0, []), done.stdout)
        path = sockets["ListenStream"].replace("%i", "web")
        as_user = ["setpriv", "--reuid=" + service["User"], "--regid=" + service["Group"], "--init-groups"]
        for folder in service["ReadWritePaths"].split():
            same(host.run(*as_user, "test", "-w", folder.lstrip("-")).returncode, 0, folder)
        done = host.run(*as_user, "vtpm", "create", "/var/lib/vtpm-vms/web.vtpm", "--ek", "none")
        same(done.returncode, 0, done.stdout)
        line = service["ExecStart"].replace("%i", "web").replace("$OPTIONS", "").split()
        os.makedirs(host.path(os.path.dirname(path)))
        os.chmod(host.path(os.path.dirname(path)), 0o777)
        with open("said", "wb") as said:
            daemon = host.start(*as_user, "--bounding-set=-all", "--no-new-privs", "systemd-socket-activate", "-l", path, *line, stdout=said, stderr=said)
        outside = os.path.realpath("web.sock")
        os.symlink(host.path(path), outside)
        with connected(outside) as control:
            data = control.open_data()
            same(control.init(), 0, "INIT")
            data.close()
        same(daemon.wait(LIMIT), 0)
        same(host.run(*as_user, "vtpm", "check", "/var/lib/vtpm-vms/web.vtpm").returncode, 0)


if __name__ == "__main__":
    main(globals())
