#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The options of swtpm socket, chardev and cuse, over our program of that name."""
import hashlib
import json
import os
import re
import resource
import socket
import stat
import subprocess
import sys
import time
import tty

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (BAD_LOCALITY, SET_LOCALITY, SHUTDOWN, VTPM, Control, Tpm, closed, contains, gone, lacks, main,
                    need_filter, need_root, read_file, same, true, wait_until, write_file)  # noqa: E402
from swtpm import (IOCTL, STATE, SWTPM, Served, data_at, debian, environment, folder_of, free_port, ioctl,  # noqa: E402
                   run, setup)
from tpm_bytes import (RC_COMMAND_SIZE, RC_FAILURE, RC_LOCALITY, get_random, nv_define, nv_write, rc_of, startup, tpm_command,
                       words)  # noqa: E402

INDEX = 0x01500010
GET_CONFIG = 15


def test_servers(place):
    """data channels: --server tcp with and without a type, unix, -p, --fd; -p and disconnect end each connection"""
    for number, (args, address, disconnects) in enumerate((
            (lambda port: ("--server", "type=tcp,port=%d" % port), "tcp", False),
            (lambda port: ("--server", "port=%d,ifname=lo" % port), "tcp", False),
            (lambda port: ("--server", "port=%d,bindaddr=127.0.0.1,disconnect" % port), "tcp", True),
            (lambda port: ("--port", str(port)), "tcp", True),
            (lambda port: ("-p", str(port)), "tcp", True),
            (lambda port: ("--server", "type=unixio,path=d,mode=0640"), "d", False))):
        port = free_port()
        served = Served(place, folder_of("s-%d" % number), *args(port), "--flags", "not-need-init,startup-clear")
        address = ("127.0.0.1", port) if address == "tcp" else address

        data = data_at(address)  # which waits for the socket alone: that the TPM is on a client need not wait for
        same(rc_of(data.run(get_random())), 0)
        if disconnects:
            true(closed(data.sock), "one command a connection")
        else:
            data.good(get_random())
            same(len(data.prefixed(3, get_random(8))), 20)
        if address == "d":
            same(stat.S_IMODE(os.stat("d").st_mode), 0o640)
        data.close()
        served.shutdown()
    ours, theirs = socket.socketpair()
    fd = theirs.detach()
    served = Served(place, folder_of("fd"), "--fd", str(fd), "--flags", "not-need-init,startup-clear", ctrl=None,
                    pass_fds=(fd,))
    data = Tpm(ours)
    same(data.rc(get_random()), 0)
    data.close()
    served.ends(0)


def test_controls(place):
    """control channels: tcp, fd (listening), clientfd (connected); no channel at all is refused"""
    port = free_port()
    served = Served(place, folder_of("tcp"), "--ctrl", "type=tcp,port=%d" % port, ctrl=None)
    wait_until(lambda: "ptm" in ioctl(place, "--tcp", "127.0.0.1:%d" % port, "-c", status=None).stdout, "tcp")
    ioctl(place, "--tcp", ":%d" % port, "-s")
    served.ends(0)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("l")
    listener.listen(1)
    fd = listener.detach()
    served = Served(place, folder_of("fd"), "--ctrl", "type=unixio,fd=%d" % fd, ctrl=None, pass_fds=(fd,))
    served.ctrl = "l"
    served.powered()
    served.shutdown()
    listener = socket.create_server(("127.0.0.1", 0))
    port, fd = listener.getsockname()[1], listener.detach()
    served = Served(place, folder_of("tcp-fd"), "--ctrl", "type=tcp,fd=%d" % fd, ctrl=None, pass_fds=(fd,))
    ioctl(place, "--tcp", "127.0.0.1:%d" % port, "-i")
    ioctl(place, "--tcp", "127.0.0.1:%d" % port, "--lock-storage", "3")
    ioctl(place, "--tcp", "127.0.0.1:%d" % port, "-s")
    served.ends(0)
    listener = socket.create_server(("127.0.0.1", 0))
    address, fd = listener.getsockname(), listener.detach()
    served = Served(place, folder_of("server-fd"), "--server", "type=tcp,fd=%d" % fd, "--flags",
                    "not-need-init,startup-clear", pass_fds=(fd,))
    for _ in range(2):
        same(data_at(address).rc(get_random()), 0)
    served.shutdown()
    ours, theirs = socket.socketpair()
    fd = theirs.detach()
    served = Served(place, folder_of("client"), "--ctrl", "type=unixio,clientfd=%d" % fd, ctrl=None, pass_fds=(fd,))
    with Control(sock=ours) as control:
        same(control.init(), 0)
        same(control.result(SHUTDOWN), 0)
    served.ends(0)
    served = Served(place, folder_of("none"), ctrl=None)
    served.ends(1, "[usage]", "--ctrl")


def test_places(place):
    """dir://, file:// and TPM_PATH name the place; the mode is that of --tpmstate; relative ones hold with --daemon"""
    for number, (args, env, path) in enumerate((
            (("--tpmstate", "backend-uri=dir://%s" % os.path.abspath("d"), ), {}, os.path.join("d", STATE)),
            (("--tpmstate", "backend-uri=file://%s,mode=0640,lock" % os.path.abspath("image")), {}, "image"),
            (("--tpmstate", ",dir=d2,,mode=0644,"), {}, os.path.join("d2", STATE)),
            ((), {"TPM_PATH": "d3"}, os.path.join("d3", STATE)))):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        run(place, SWTPM, "socket", "--tpm2", *args, "--ctrl", "type=unixio,path=c", "--daemon", "--pid", "file=pid",
            env=env)
        pid = int(read_file("pid"))
        try:
            ioctl(place, "--unix", "c", "-i")
            same(stat.S_IMODE(os.stat(path).st_mode), (0o600, 0o640, 0o644, 0o600)[number], path)
        finally:
            ioctl(place, "--unix", "c", "-s")
        wait_until(lambda: gone(pid), "it ends")
        place.sound(path)
        told = json.loads(run(place, SWTPM, "socket", *args, "--print-states", "--tpm2", env=env).stdout)
        same(told, {"type": "swtpm", "states": [{"name": "permall", "size": 640 << 10}]})
    same(json.loads(run(place, SWTPM, "socket", "--tpm2", "--tpmstate", "dir=" + folder_of("empty"),
                        "--print-states").stdout), {"type": "swtpm", "states": []})


def test_daemon_fails(place):
    """--daemon: a start that fails ends with 1 and says why"""
    folder = folder_of("plain")
    setup(place, folder)
    os.unlink(os.path.join(folder, STATE))
    done = run(place, SWTPM, "socket", "--tpm2", "--tpmstate", "dir=" + folder, "--ctrl", "type=unixio,path=c", "--daemon",
               status=1)
    contains(done.stderr, "swtpm: [state-missing]")
    for _ in range(20):  # a file: who waits for its end sees no message that is late
        with open("late", "wb") as late:
            same(subprocess.run([SWTPM, "socket", "--tpm2", "--tpmstate", "dir=" + folder, "--ctrl",
                                 "type=unixio,path=no-folder/c", "--daemon"], env=environment(place), stderr=late,
                                check=False).returncode, 1)
        contains(read_file("late").decode(), "no-folder/c")


def test_flags(place):
    """--flags: not-need-init, startup-clear, startup-state, startup-none; disable-auto-shutdown sends no shutdown"""
    folder = folder_of("flags")
    for flags, rc in (("startup-clear", 0), ("not-need-init", 0x100), ("not-need-init,startup-none", 0x100),
                      ("startup-none", RC_FAILURE)):
        served = Served(place, folder, "--server", "type=unixio,path=d", "--flags", flags)
        data = data_at("d")
        for _ in range(2):
            same(data.rc(get_random()), rc, flags)
            time.sleep(0.05)
        if flags == "startup-clear":
            data.good(tpm_command(0x145, b"\0\1"))
        served.shutdown()
        if flags == "startup-clear":
            served = Served(place, folder, "--server", "type=unixio,path=d", "--flags", "startup-state")
            same(data_at("d").rc(get_random()), 0, "it is on with its state")
            served.shutdown()
    for number, (flags, guesses) in enumerate((("startup-clear", 0), ("startup-clear,disable-auto-shutdown", 1))):
        folder = folder_of("lockout-%d" % number)
        for life in range(2):
            served = Served(place, folder, "--server", "type=unixio,path=d", "--flags", flags)
            data = data_at("d")
            same(data.rc(get_random()), 0)
            if life == 0:  # the use of what is protected against guessing makes a shutdown that is missing count
                data.good(nv_define(INDEX, 8, 0x00060006))
                wait_until(lambda: data.rc(nv_write(INDEX, b"x")) == 0, "it is used")
            else:
                same(int.from_bytes(data.good(tpm_command(0x17A, words(6, 0x20E, 1)))[-4:], "big"), guesses, flags)
            served.shutdown()


def test_locality(place):
    """--locality: allow-set-locality takes the proxy's command, reject-locality-4 refuses 4 on every way; not without"""
    set_locality = lambda number: tpm_command(0x20001000, bytes((number,)))  # noqa: E731
    for args, answers, control_4, prefix_4 in (
            ((), (0x143, 0x143), 0, 0),
            (("--locality", "allow-set-locality"), (0, 0), 0, 0),
            (("--locality", "reject-locality-4"), (0x143, 0x143), BAD_LOCALITY, RC_LOCALITY),
            (("--locality", "reject-locality-4,allow-set-locality"), (0, RC_LOCALITY), BAD_LOCALITY, RC_LOCALITY)):
        served = Served(place, folder_of("l"), "--server", "type=unixio,path=d", *args)
        with served.control() as control:
            same(control.init(), 0)
            data = data_at("d")
            data.good(startup())
            same((data.rc(set_locality(3)), data.rc(set_locality(4))), answers, str(args))
            same(control.result(SET_LOCALITY, b"\4\0\0\0"), control_4)
            same(rc_of(data.prefixed(4, get_random())), prefix_4)
            if answers[0] == 0:
                same(data.rc(set_locality(5)), RC_LOCALITY)
                same(data.rc(tpm_command(0x20001000)), 0x9A)
                data.good(set_locality(0))
            data.good(get_random())
        served.shutdown()


def test_log(place):
    """--log: level, prefix and truncate; a descriptor; - for none; errors are on standard error whatever is said"""
    folder = folder_of("log")
    write_file("log", b"of before\n")
    served = Served(place, folder, "--log", "file=log,level=5,prefix=guest: ")
    served.powered()
    served.shutdown()
    text = read_file("log").decode()
    contains(text, "of before\n", ": guest: ", "debug")
    served = Served(place, folder, "--log", "file=log,truncate,level=1")
    served.shutdown()
    lacks(read_file("log").decode(), "of before", "debug")
    ours, theirs = os.pipe()
    served = Served(place, folder, "--log", "fd=%d,level=5" % theirs, pass_fds=(theirs,))
    served.shutdown()
    contains(os.read(ours, 65536).decode(), "debug")
    ours, theirs = socket.socketpair()  # which cannot be opened by a name
    served = Served(place, folder, "--log", "fd=1,level=5", stdout=theirs)
    served.shutdown()
    contains(ours.recv(65536).decode(), "debug")
    setup(place, folder, "--overwrite", "--createek")
    os.unlink(os.path.join(folder, STATE))
    served = Served(place, folder, "--log", "file=-", "--flags", "not-need-init", wait=False)
    served.ends(1, "[state-missing]")


def test_pid(place):
    """--pid fd= gets the number of the process that serves, of a daemon too"""
    ours, theirs = os.pipe()
    run(place, SWTPM, "socket", "--tpm2", "--tpmstate", "dir=" + folder_of("p"), "--ctrl", "type=unixio,path=c", "-d",
        "--pid", "fd=%d" % theirs, pass_fds=(theirs,))
    pid = int(os.read(ours, 100))
    contains(read_file("/proc/%d/cmdline" % pid), b"swtpm-compat/swtpm\0socket")
    ioctl(place, "--unix", "c", "-s")
    wait_until(lambda: gone(pid), "it ends")


def test_runas(place):
    """--runas: sockets and state are the user's, and it has no other rights; an unknown one is refused"""
    need_root()
    folder = folder_of("user")
    os.makedirs("theirs/data")
    for path in (".", "swtpm", os.path.dirname(folder)):
        os.chmod(path, 0o755)
    for path in (folder, "theirs", "theirs/data"):
        os.chown(path, 65534, 65534)
    served = Served(place, folder, "--runas", "nobody", ctrl=None, *("--ctrl", "type=unixio,path=theirs/c"),
                    env={"VTPM_DATA_DIR": os.path.abspath("theirs/data")}, wait=False)
    served.ctrl = "theirs/c"
    wait_until(lambda: served.process.poll() is not None or served.answers(), "it listens")
    served.powered()
    status = read_file("/proc/%d/status" % served.process.pid).decode()
    contains(status, "Uid:\t65534\t65534\t65534\t65534", "Groups:\t65534")
    same([os.stat(path).st_uid for path in ("theirs/c", os.path.join(folder, STATE))], [65534, 65534])
    served.shutdown()
    os.mkdir("number")
    os.chown("number", 40123, 40123)
    served = Served(place, "number", "--runas", "40123", ctrl=None, *("--ctrl", "type=unixio,path=number/c"),
                    env={"VTPM_DATA_DIR": os.path.abspath("number/data")}, wait=False)
    served.ctrl = "number/c"
    wait_until(lambda: served.process.poll() is not None or served.answers(), "it listens")
    served.powered()
    with open("/proc/%d/status" % served.process.pid, encoding="ascii") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file)
    same((status["Uid"].split(), status["Gid"].split(), status["Groups"].strip()), (["40123"] * 4, ["40123"] * 4, ""))
    served.shutdown()
    served = Served(place, folder_of("root"), "--runas", "0")
    served.powered()
    contains(read_file("/proc/%d/status" % served.process.pid).decode(), "Uid:\t0\t0\t0\t0")
    served.shutdown()


def test_chroot(place):
    """--chroot: all paths are below it"""
    need_root()
    os.makedirs("root/state")
    os.makedirs("root/data")
    write_file("root/vtpm.conf", b"[vtpm]\nca=none\n")
    served = Served(place, None, "--chroot", os.path.abspath("root"), "--ctrl", "type=unixio,path=/c", ctrl=None,
                    state="dir=/state", env={"VTPM_DATA_DIR": "/data", "VTPM_CONFIG": "/vtpm.conf",
                                                       "ASAN_OPTIONS": "detect_leaks=0"})  # which wants /proc
    served.ctrl = "root/c"
    wait_until(lambda: served.process.poll() is not None or served.answers(), "it listens")
    served.powered()
    same(os.readlink("/proc/%d/root" % served.process.pid), os.path.abspath("root"))
    served.shutdown()
    true(os.path.exists(os.path.join("root/state", STATE)), "the state")


def test_refused(place):
    """what is not offered, and mistakes: a word, exit 1, nothing made"""
    folder = folder_of("r")
    good = ("--tpmstate", "dir=" + folder, "--ctrl", "type=unixio,path=c")
    for args, piece in (((*good,), "TPM 1.2"), (("--tpm2", "--ctrl", "type=unixio,path=c"), "--tpmstate"),
                        (("--tpm2", *good, "--migration", "release-lock"), "release-lock"),
                        (("--tpm2", *good, "--flags", "startup-deactivated"), "startup-deactivated"),
                        (("--tpm2", *good, "--flags", "startup-clear,startup-state"), "--flags"),
                        (("--tpm2", *good, "--flags", "no-such"), "no-such"),
                        (("--tpm2", *good, "--ctrl", "type=serial,path=x"), "serial"),
                        (("--tpm2", *good, "--ctrl", "type=unixio"), "path="),
                        (("--tpm2", *good, "--server", "type=tcp"), "port="),
                        (("--tpm2", *good, "--server", "port=70000"), "70000"),
                        (("--tpm2", *good, "--ctrl", "type=unixio,fd=977"), "977"),
                        (("--tpm2", *good, "--key", "pwdfd=977"), " --key: 'pwdfd=977'"),
                        (("--tpm2", *good, "--migration-key", "pwdfd=977"), " --migration-key: 'pwdfd=977'"),
                        (("--tpm2", *good, "--migration-key", "file=w,remove=perhaps"), "--migration-key"),
                        (("--tpm2", *good, "--key", "pwdfile=w,mode=rot13"), "rot13"),
                        (("--tpm2", *good, "--tpmstate", "backend-uri=nfs://x"), "nfs://x"),
                        (("--tpm2", *good, "--seccomp", "action=maybe"), "--seccomp"),
                        (("--tpm2", *good, "--profile", "name=null"), "--profile"),
                        (("--tpm2", *good, "--runas", "no-such-user"), "no-such-user"),
                        (("--tpm2", *good, "stray"), "stray")):
        done = run(place, SWTPM, "socket", *args, status=1)
        contains(done.stderr, "swtpm: [usage]", piece)
        same((os.listdir(folder), os.path.exists("c")), ([], False), str(args))
    for args in (("what",), ()):
        contains(run(place, SWTPM, *args, status=1).stderr, "Usage: swtpm socket")


def test_devices(place):
    """swtpm chardev and cuse: their options, and what is missing; devices are made in a guest, see test_cuse.py"""
    good = ("--tpm2", "--tpmstate", "dir=" + folder_of("d"))
    for args, piece in ((("chardev", *good), "--vtpm-proxy is missing"), (("cuse", *good), "--name is missing"),
                        (("chardev", *good, "--chardev", "/dev/none"), "/dev/none"),
                        (("chardev", *good, "--chardev", VTPM), "is no character device"), (("chardev", *good, "--fd", "77"), "77"),
                        (("chardev", *good, "--vtpm-proxy", "--server", "port=1"), "--server"),
                        (("chardev", *good, "--vtpm-proxy", "--terminate"), "--terminate"),
                        (("chardev", "--vtpm-proxy", *good[1:]), "TPM 1.2"),
                        (("chardev", "--vtpm-proxy", "--tpm2"), "--tpmstate"),
                        (("cuse", *good, "--name", "a/b"), "a/b"), (("cuse", *good, "--name", "x", "--maj", "-1"), "-1"),
                        (("cuse", *good, "--name", "x", "--min", "9999999"), "9999999"),
                        (("cuse", *good, "--name", "x", "--ctrl", "type=tcp,port=1"), "--ctrl"),
                        (("cuse", *good, "--name", "x", "--vtpm-proxy"), "--vtpm-proxy"),
                        (("socket", *good, "--ctrl", "type=unixio,path=c", "--name", "x"), "--name")):
        contains(run(place, SWTPM, *args, status=1).stderr, "swtpm: [usage]", piece)
        same((os.listdir(folder_of("d")), os.path.exists("c")), ([], False), str(args))
    for interface, said in (("chardev", ("--vtpm-proxy", "--ctrl")), ("cuse", ("--name", "--maj"))):
        contains(run(place, SWTPM, interface, "--help").stdout, "Usage: swtpm " + interface, "--tpm2", *said)
        same(json.loads(run(place, SWTPM, interface, "--print-capabilities").stdout)["type"], "swtpm")
        contains(run(place, SWTPM, interface, "--print-states", *good).stdout, '"states": []')
    options = {"chardev": ("--vtpm-proxy",), "cuse": ("--name", "vtpm-test", "-M", "260", "-m", "3")}
    for interface, node, module in (("chardev", "/dev/vtpmx", "tpm_vtpm_proxy"), ("cuse", "/dev/cuse", "cuse")):
        if not os.path.exists(node):
            contains(run(place, SWTPM, interface, *good, *options[interface], status=1).stderr, "modprobe " + module)
            same(os.listdir(folder_of("d")), [])


def test_given_device(place):
    """swtpm chardev --chardev and --fd: the commands of a device that another program has made, which sets the locality where
    it is told that it may; it ends in order, and with the device"""
    master, slave = os.openpty()
    tty.setraw(slave)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for fd, device, close, more, result in ((master, slave, lambda: os.close(master), (), 0x143),
                                            (ours.fileno(), theirs.fileno(), ours.close,
                                             ("--locality", "allow-set-locality"), 0)):
        for ends in ("term", "closed"):
            copy = os.dup(device)
            args = ("--fd", str(copy)) if device != slave else ("--chardev", os.ttyname(slave))
            served = Served(place, folder_of("device-%d" % device), *args, *more, "--flags", "startup-clear", "--log",
                            "file=log", interface="chardev", ctrl=None, pass_fds=(copy,))
            for command, length, code in ((get_random(8), 20, 0), (b"\x80\1\0", 10, RC_COMMAND_SIZE),
                                          (tpm_command(0x20001000, b"\2"), 10, result)):
                os.write(fd, command)
                answer = os.read(fd, 4096)
                same((len(answer), rc_of(answer)), (length, code), "%s, %s" % (args, command.hex()))
            if ends == "term":
                served.process.terminate()
                served.ends(0)
        close()
        served.ends(1)
        contains(read_file("log").decode(), "the TPM device was closed")


def test_turns(place):
    """who connects while a channel has a client is served when that one goes, as Debian's does it"""
    for number, program in enumerate((SWTPM, debian())):
        port = free_port()
        served = Served(place, folder_of("turns-%d" % number), "--server", "port=%d" % port, "--flags",
                        "not-need-init,startup-clear", program=program, ctrl="turns-%d" % number)
        first, others = data_at(("127.0.0.1", port)), [data_at(("127.0.0.1", port)) for _ in range(2)]  # Debian's backlog
        for other in others:
            other.sock.sendall(get_random())
        for _ in range(2):
            same(rc_of(first.run(get_random())), 0)
        first.close()
        for other in others:
            same(rc_of(other.sock.recv(4096)), 0, program)
            other.close()
        with served.control() as control, served.control() as waits:
            waits.send(words(GET_CONFIG))
            same(control.result(GET_CONFIG), 0)
            control.close()
            same(waits.read(4), words(0), program)
        served.shutdown()


def test_words(place):
    """capabilities are JSON with what libvirt looks for; --help mentions --tpm2; --version"""
    told = json.loads(run(place, SWTPM, "socket", "--print-capabilities").stdout)
    same(told["type"], "swtpm")
    true("cmdarg-pwd-fd" in told["features"] and "tpm-1.2" not in told["features"], str(told))
    contains(run(place, SWTPM, "socket", "--help").stdout, "--tpm2")
    contains(run(place, SWTPM, "--help").stdout, "swtpm socket")
    contains(run(place, SWTPM, "--version").stdout, "TPM emulator version")


def test_seccomp(place):
    """--seccomp: kill and log are the sandbox, as without it, and none is none"""
    need_filter()

    def mode(*args):
        served = Served(place, folder_of("seccomp"), *args)
        served.powered()
        status = read_file("/proc/%d/status" % served.process.pid).decode()
        served.shutdown()
        return re.search(r"^Seccomp:\t(\d)$", status, re.MULTILINE).group(1)
    default = mode()
    same([mode("--seccomp", "action=" + action) for action in ("kill", "log", "none")], [default, default, "0"])


def states(place, program, where, **options):
    told = json.loads(run(place, program, "socket", "--tpm2", "--print-states", "--tpmstate", where, **options).stdout)
    same(told["type"], "swtpm")
    return [(state["name"], state["size"]) for state in told["states"]]


def test_print_states(place):
    """--print-states: none in an empty folder and in a blank image; else what lies there, of swtpm's as swtpm tells it"""
    folder, theirs, image = folder_of("states"), folder_of("theirs"), os.path.abspath("image")
    in_folder, in_image = "dir=" + theirs, "backend-uri=file://" + image
    for where in ("dir=" + folder, in_image):
        for program in (debian(), SWTPM):
            same(states(place, program, where), [], program)
    true(os.path.getsize(image) > 0, "Debian's has formatted it")
    for where in (in_folder, in_image):
        served = Served(place, None, program=debian(), state=where)
        served.powered()
        ioctl(place, "--unix", "c", "-v")
        served.process.kill()  # an end in order would take the suspended state away
        served.process.wait()
        same(states(place, SWTPM, where), states(place, debian(), where))
        same([name for name, _ in states(place, SWTPM, where)], ["permall", "volatilestate"])
    setup(place, folder)
    same([(name, size > 0) for name, size in states(place, SWTPM, "dir=" + folder)], [("permall", True)])
    for program in (debian(), SWTPM):
        run(place, program, "socket", "--tpm2", "--print-states", "--tpmstate", "dir=/nonexistent", status=1)
    write_file("zeros", bytes(4 << 20))
    same(states(place, SWTPM, "backend-uri=file://" + os.path.abspath("zeros")), [])


def test_one_command(place):
    """swtpm_ioctl with two commands does none, as Debian's"""
    served = Served(place, folder_of("one"))
    for args in (("-i", "-s"), ("-c", "-c"), ("-g", "--save", "permanent", "f")):
        for program in (debian("swtpm_ioctl"), IOCTL):
            same(run(place, program, "--unix", "c", *args, status=1).stderr, "Only one command may be given.\n", program)
    served.shutdown()


def test_hash_from_stdin(place):
    """swtpm_ioctl -h -: standard input, in pieces and longer than one message, is measured into PCR 17 as the same words
    on the command line are; so are bytes that cannot stand there, and nothing"""
    served = Served(place, folder_of("hash"))
    control, data = served.powered()
    data.good(startup())
    control.close()
    for piece, is_text in ((b"measured " * 300, True), (bytes(range(256)) * 10, False), (b"", False)):
        write_file("piece", piece)
        ours, theirs = os.pipe()
        with subprocess.Popen(["sh", "-c", "for n in 1 2 3; do cat piece; sleep 0.05; done"], stdout=theirs):
            os.close(theirs)
            ioctl(place, "--unix", "c", "-h", "-", stdin=ours)
        os.close(ours)
        wanted = hashlib.sha256(bytes(32) + hashlib.sha256(3 * piece).digest()).digest()
        same(data.pcr(17), wanted, "%.20r" % piece)
        if is_text:
            ioctl(place, "--unix", "c", "-h", "else")
            true(data.pcr(17) != wanted, "each begins anew")
            ioctl(place, "--unix", "c", "-h", (3 * piece).decode())
            same(data.pcr(17), wanted)
    served.shutdown()


def test_save_file_size_limit(place):
    """swtpm_ioctl --save under a limit on file sizes: told, and no half of a blob is left"""
    served = Served(place, folder_of("limit"))
    served.powered()
    before = os.listdir(".")
    done = run(place, IOCTL, "--unix", "c", "--save", "permanent", "blob", status=1,
               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512)))
    contains(done.stderr, "'blob'", "File too large")
    same(os.listdir("."), before)
    served.shutdown()


def test_save_to_what_is_no_file(place):
    """swtpm_ioctl --save to a FIFO, a device or /dev/stdout leaves it what it is, a link names the file; --load of a pipe"""
    served = Served(place, folder_of("elsewhere"))
    served.powered()
    kept = {}

    def save(program, to, **options):
        return run(place, program, "--unix", "c", "--save", "permanent", to, **options)

    for program in (IOCTL, debian("swtpm_ioctl")):
        os.mkfifo("fifo")
        with subprocess.Popen(["cat", "fifo"], stdout=subprocess.PIPE) as reader:
            save(program, "fifo")
            kept["fifo"] = reader.stdout.read()
        write_file("file", b"x" * 100000)
        os.symlink("file", "link")
        save(program, "link")
        kept["file"] = read_file("file")
        os.symlink("none", "to-none")
        save(program, "to-none")
        kept["none"] = read_file("none")
        with open("out", "wb") as out:
            subprocess.run([program, "--unix", "c", "--save", "permanent", "/proc/self/fd/1"], stdout=out, check=True)
        kept["out"] = read_file("out")
        if os.geteuid() == 0:
            os.mknod("full", stat.S_IFCHR | 0o600, os.makedev(1, 7))  # as /dev/full
            save(program, "full", status=1)
            same(stat.S_IFMT(os.lstat("full").st_mode), stat.S_IFCHR, program)
            os.unlink("full")
        same([stat.S_IFMT(os.lstat(path).st_mode) for path in ("fifo", "link", "to-none")],
             [stat.S_IFIFO, stat.S_IFLNK, stat.S_IFLNK], program)
        same([len(blob) > 1000 for blob in kept.values()], [True] * 4, program)
        for path in ("fifo", "file", "link", "none", "to-none", "out"):
            os.unlink(path)
        run(place, program, "--unix", "c", "--stop")
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
            writer.stdin.write(kept["none"])
            writer.stdin.close()
            subprocess.run([program, "--unix", "c", "--load", "permanent", "/dev/stdin"], stdin=writer.stdout, check=True)
        run(place, program, "--unix", "c", "-i")
    served.shutdown()


def test_options_of_debian(place):
    """every option that Debian's swtpm socket --help and chardev --help name is an option here"""
    for interface in ("socket", "chardev"):  # Debian's has no cuse
        text = run(place, debian(), interface, "--help").stdout
        options = set(re.findall(r"(?:^|\|)(--[a-z0-9-]+)", text, re.MULTILINE))
        options.discard("--print-capabilites")  # misspelt there
        true(len(options) > 15, "options were found: %s" % options)
        for option in sorted(options):
            done = run(place, SWTPM, interface, option, "x", status=None)
            lacks(done.stderr, "'%s' is no option here" % option)


if __name__ == "__main__":
    main(globals())
