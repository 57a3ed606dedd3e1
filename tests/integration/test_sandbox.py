#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The sandbox: what a device has given up, looked at from outside, and what becomes of somebody else's code in it.

VTPM_SANDBOX_ATTACK names the library built of sandbox_attack.c; without it cc builds one.
"""
import contextlib
import ctypes
import errno
import itertools
import os
import pwd
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (GET_CAPABILITY, SHUTDOWN, VTPM, Control, Skip, contains, gone, lacks, main, need_filter,  # noqa: E402
                    need_root, read_file, receive, same, true, wait_until, write_file)
from tpm_bytes import nv_define, nv_write, startup, words  # noqa: E402

HERE = os.path.dirname(os.path.realpath(__file__))
INDEX = 0x01500001

# Every way out that sandbox_attack.c knows.
ENDS = ("open", "open elsewhere to write", "openat2", "look at a path", "list attributes", "rename", "link",
        "change mode", "make a folder", "truncate", "exec", "execveat", "fork", "vfork", "connect",
        "connect by a send", "connect by a message", "bind", "socket",
        "unix socket", "ptrace", "read another process", "kill", "signal a thread of another",
        "change user", "prctl", "raise a limit", "handle signals", "memory to execute", "make memory executable",
        "memfd", "ioctl", "namespaces", "mount", "bpf", "io_uring", "userfaultfd", "fcntl owner",
        "set a socket's options", "a number that is none", "calls of i386", "calls of x32")
FROM_A_THREAD = ("open", "exec", "connect", "socket", "ptrace", "open elsewhere to write")
TOLD = re.compile(r"^[-0-9]+T[:0-9]+Z error: \[sandbox\] system call [0-9]+ at 0x[0-9a-f]+ is forbidden", re.M)


def status(pid, word):
    for line in read_file("/proc/%d/status" % pid).decode().splitlines():
        if line.startswith(word + ":"):
            return line.split(":")[1].split()
    raise AssertionError("no %s in the status" % word)


def has_landlock():
    return ctypes.CDLL(None).syscall(444, 0, 0, 1) >= 1  # landlock_create_ruleset(2), its version


def library(place):
    given = os.environ.get("VTPM_SANDBOX_ATTACK")
    path = os.path.join(place.folder, "attack.so")
    if given:
        return os.path.abspath(given)
    try:
        subprocess.run([os.environ.get("CC", "cc").split()[0], "-D_GNU_SOURCE", "-shared", "-fPIC", "-w", "-o", path,
                        os.path.join(HERE, "sandbox_attack.c"), "-lpthread"], check=True, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        raise Skip("there is no compiler to build sandbox_attack.c") from None
    return path


def ended(device, wanted=0, terminate=True, limit=20):
    """The device ends, and its broker, which has the file too."""
    path = "/proc/%d/task/%d/children" % (device.pid, device.pid)
    brokers = getattr(device, "brokers", None) or [int(pid) for pid in read_file(path).split()]
    if terminate:
        device.process.terminate()
    same(device.wait(), wanted, device.errors())
    wait_until(lambda: all(gone(pid) for pid in brokers), "the broker is gone", limit)


def attacked(place, preload, what, *args, thread="control", ctrl=None, pid_file=None, preexec=None):
    """A device in which WHAT is tried. Gives it, and what the library tells: "" where it could not any more."""
    ours, theirs = os.pipe()
    env = {"LD_PRELOAD": preload, "SANDBOX_ATTACK": what, "SANDBOX_TELL": str(theirs), "SANDBOX_THREAD": thread}
    device = place.start("state.vtpm", *args, log="log-" + re.sub("[^a-z0-9]", "-", what), env=env,
                         pass_fds=(theirs,), ctrl=ctrl and "unix:" + ctrl, pid_file=pid_file, preexec=preexec)
    os.close(theirs)
    control = Control(ctrl or device.path)
    same(control.call(GET_CAPABILITY, reply=8)[0], 0, "GET_CAPABILITY")
    device.brokers = [int(pid) for pid in read_file("/proc/%d/task/%d/children" % (device.pid, device.pid)).split()]
    sockets = socket.socketpair()
    try:
        control.set_data_fd(sockets[0])
        if thread == "data":
            same(control.init(), 0, "INIT")
            sockets[1].sendall(startup())
    except (ConnectionError, OSError):
        pass
    told = os.read(ours, 64).decode()
    os.close(ours)
    return device, told


def prepare(place):
    need_filter()
    place.create()
    write_file("victim", b"untouched")
    os.mkdir("away")
    write_file("away/it", b"untouched")
    return library(place)


def test_ends(place):
    """each attempt to open, run, connect, trace, write elsewhere and thirty others: told in the log, ends by SIGSYS"""
    preload = prepare(place)
    for what in ENDS:
        device, told = attacked(place, preload, what)
        ended(device, -signal.SIGSYS, terminate=False)
        same(told, "", what)
        true(TOLD.search(device.log()), "%s is not told in the log: %s" % (what, device.log()))
        contains(device.errors(), "[sandbox] system call")
    same((read_file("victim"), read_file("away/it")), (b"untouched",) * 2)
    true(not os.path.exists("mine"), "nothing was made")
    place.sound()
    return "%d attempts" % len(ENDS)


def test_threads(place):
    """the same from the thread that runs the guest's commands, and from one that began inside"""
    preload = prepare(place)
    for what, thread in itertools.product(FROM_A_THREAD, ("data", "new")):
        device, told = attacked(place, preload, what, thread=thread)
        ended(device, -signal.SIGSYS, terminate=False)
        same(told, "", what)
        true(TOLD.search(device.log()), "%s is not told in the log: %s" % (what, device.log()))


def test_attack_library(place):
    """without the sandbox the attempts do what they say, so it was the sandbox that ended them; a name that is none"""
    preload = prepare(place)
    for what, wanted in (("open", "0"), ("look at a path", "0"), ("memfd", "0"), ("nothing", "0"), ("no such", "?"),
                         ("kill nobody", "?")):
        device, told = attacked(place, preload, what, "--sandbox", "off")
        same(told, wanted, what)
        ended(device)
    device, told = attacked(place, preload, "nothing")
    same(told, "0", "the library itself is let live in the sandbox")
    ended(device)


def test_landlock(place):
    """what the filter lets through Landlock does not: a file outside the sockets' folders is not removed"""
    preload = prepare(place)
    if not has_landlock():
        raise Skip("this kernel has no Landlock")
    os.mkdir("own")
    device, told = attacked(place, preload, "remove elsewhere", ctrl="own/c", pid_file="own/pid")
    same(told, str(errno.EACCES))
    same(read_file("away/it"), b"untouched")
    ended(device)
    same(os.listdir("own"), [], "its own are removed all the same")


def test_log(place):
    """--sandbox log: each call is told once and done, and the device goes on"""
    preload = prepare(place)
    for what, wanted in (("open", "0"), ("look at a path", "0"), ("socket", "0"), ("memfd", "0"),
                         ("connect", str(errno.ENOTSOCK)), ("memory to execute", "0")):
        device, told = attacked(place, preload, what, "--sandbox", "log")
        same(told, wanted, what)
        text = device.log()
        same(text.count("[sandbox] system call"), 1, what + " is told: " + text)
        contains(text, "is none of those that are let through")
        ended(device)
    device, told = attacked(place, preload, "change mode", "--sandbox", "log",
                            preexec=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG)))
    same(told, "0", "started with all signals blocked")
    contains(device.log(), "is none of those that are let through")
    device.process.kill()
    ended(device, -signal.SIGKILL, terminate=False)


def test_pid_file(place):
    """the pid file cannot be written by the device: who ends processes by it would end another"""
    place.create()
    device = place.start("state.vtpm")
    held = []
    for entry in os.scandir("/proc/%d/fd" % device.pid):
        with contextlib.suppress(FileNotFoundError):  # it starts, and closes what it opened for that
            if os.readlink(entry.path) == os.path.abspath(device.pid_file):
                held.append(entry.name)
    same(len(held), 1, "it keeps others away by it")
    flags = re.search(r"flags:\s*(\d+)", read_file("/proc/%d/fdinfo/%s" % (device.pid, held[0])).decode()).group(1)
    same(int(flags, 8) & os.O_ACCMODE, os.O_RDONLY)
    ended(device)


def test_many_descriptors(place):
    """started by somebody who leaves it 300 descriptors of his own: it serves all the same"""
    place.create()
    left = [os.dup(0) for _ in range(300)]
    device = place.start("state.vtpm", pass_fds=left)
    for fd in left:
        os.close(fd)
    control = device.control()
    same(control.init(), 0, "INIT")
    same(control.open_data().rc(startup()), 0, "startup")
    ended(device)


def test_first_use(place):
    """what is looked up in files at its first use has been by then: random bytes; an errno's name in a character set
    that is none"""
    env = {"LD_PRELOAD": prepare(place), "SANDBOX_COUNTS": "1", "CHARSET": "none-such"}
    device = place.start("state.vtpm", env=env,
                         preexec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)))
    control = device.control()
    tpm = control.open_data()
    same(control.init(), 0, "INIT")
    true(tpm.rc(startup()) != 0, "what cannot be stored is not acknowledged")
    contains(device.log(), os.strerror(errno.EFBIG))
    lacks(device.log(), "[sandbox]")
    device.process.kill()
    ended(device, -signal.SIGKILL, terminate=False)


def test_given_up(place):
    """no capability of any set, no new privileges, a filter, not dumpable, no core, few descriptors; off: as before"""
    need_filter()
    place.create()
    for mode, filtered in ((), True), (("--sandbox", "on"), True), (("--sandbox", "log"), True), \
            (("--sandbox", "off"), False):
        device = place.start("state.vtpm", *mode)
        device.powered()
        pid = device.pid
        for word in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            zero = int(status(pid, word)[0], 16) == 0
            if filtered and (os.geteuid() == 0 or word != "CapBnd"):  # only root can lower that one
                true(zero, "%s with %s" % (word, mode))
            elif word == "CapEff" and os.geteuid() == 0:
                true(not zero, "off leaves the capabilities")
        same(status(pid, "NoNewPrivs"), ["1"])
        same(status(pid, "Seccomp"), ["2" if filtered else "0"], str(mode))
        for thread in os.listdir("/proc/%d/task" % pid):
            same(status(int(thread), "Seccomp"), ["2" if filtered else "0"], "thread")
        limits = read_file("/proc/%d/limits" % pid).decode()
        true(re.search(r"Max core file size +0 +0", limits), limits)
        same(re.search(r"Max open files +256 +256", limits) is not None, filtered, limits)
        true(os.stat("/proc/%d/mem" % pid).st_uid == 0, "not dumpable: its memory is nobody's but root's")
        device.term()


def test_before_a_byte(place):
    """it is inside before it reads: a request that is there before the start is read after the filter was set"""
    need_filter()
    if not shutil.which("strace"):
        raise Skip("strace is not installed")
    place.create()
    ours, theirs = socket.socketpair()
    ours.sendall(words(GET_CAPABILITY))
    device = place.start("state.vtpm", ctrl="fd:%d" % theirs.fileno(), pass_fds=(theirs.fileno(),),
                         prefix=("strace", "-D", "-o", "trace", "-e", "trace=seccomp,recvmsg,recvfrom,accept4"))
    theirs.close()
    same(receive(ours, 8)[:4], words(0))
    ours.close()
    device.wait()
    calls = re.findall("^([a-z0-9]+)\\(", read_file("trace").decode(), re.M)
    same((calls[0], "recvmsg" in calls), ("seccomp", True), str(calls))


def test_broker_and_helpers(place):
    """a broker that waits for its helper, and that helper: filtered, few capabilities; off: as they were started"""
    need_filter()
    place.add_gate()
    place.create("state.vtpm", "--provider", "gate")
    place.gate("wait")
    for mode, filtered in (("on", True), ("off", False)):
        before = len(place.asked())
        device = place.start("state.vtpm", "--sandbox", mode)
        wait_until(lambda count=before: len(place.asked()) > count, "the helper is asked")
        helper = int(place.asked()[-1][1])
        broker = int(status(helper, "PPid")[0])
        same(int(status(broker, "PPid")[0]), device.pid)
        for pid in (broker, helper):
            same(status(pid, "Seccomp"), ["2" if filtered else "0"], mode)
            same(status(pid, "NoNewPrivs"), ["1"])
            if os.geteuid() == 0 and filtered:  # files' capabilities and locked memory
                same(int(status(pid, "CapEff")[0], 16) & ~0x401f, 0, "CapEff")
        ended(device, limit=5)  # it does not wait for the provider


def test_page(place):
    """docs/security.md: what it shows for a look at a running device is run, and shows that; its line of the log"""
    need_filter()
    with open(os.path.join(HERE, "..", "..", "docs", "security.md"), encoding="utf-8") as file:
        page = file.read()
    commands = re.search("```sh look\n(.*?)```", page, re.S).group(1)
    place.create("guest.vtpm")
    commands = commands.replace("--daemon", "--daemon --config vtpm.conf")
    done = subprocess.run(["sh", "-ec", "PATH=%s:$PATH\n" % os.path.dirname(VTPM) + commands],
                          env=place.env, capture_output=True, text=True, timeout=60, check=False)
    same(done.returncode, 0, done.stderr)
    shown = dict(line.split(":", 1) for line in done.stdout.splitlines())
    same((shown["CapEff"].strip(), shown["NoNewPrivs"].strip(), shown["Seccomp"].strip()), ("0" * 16, "1", "2"))
    true(re.search(r"^error: \[sandbox\] system call [0-9]+ at 0x[0-9a-f]+ is forbidden, the process ends$", page, re.M),
         "the line of the log is the one that is told")


def test_usage(place):
    """--sandbox and --run-as with what they do not take"""
    place.create()
    place.refused(2, ["[usage]", "--sandbox"], "state.vtpm", "--sandbox", "perhaps")
    place.refused(2, ["[usage]", "no-such-user"], "state.vtpm", "--run-as", "no-such-user")


def test_run_as(place):
    """--run-as: the device is that user's with no other groups; what it cannot remove it says; state stays root's"""
    need_filter()
    need_root()
    nobody = pwd.getpwnam("nobody")
    os.chmod(place.folder, 0o755)
    os.mkdir("theirs")
    os.chown("theirs", nobody.pw_uid, nobody.pw_gid)
    place.create()
    for mode in ("on", "off"):
        device = place.start("state.vtpm", "--run-as", "nobody", "--manage", "unix:theirs/m", "--sandbox", mode,
                             log="log-" + mode)
        control, data = device.powered()
        same(status(device.pid, "Uid"), [str(nobody.pw_uid)] * 4)
        same(status(device.pid, "Gid"), [str(nobody.pw_gid)] * 4)
        true(set(status(device.pid, "Groups")) <= {str(nobody.pw_gid)}, "groups")
        same(int(status(device.pid, "CapEff")[0], 16), 0)
        data.good(nv_define(INDEX, 4) if mode == "on" else nv_write(INDEX, b"more"))
        same(control.result(SHUTDOWN), 0, "SHUTDOWN")
        same(device.wait(), 0, device.errors())
        true(not os.path.exists("theirs/m"), "what is in its own folder is removed")
        if mode == "on":
            contains(device.log(), "runs as user nobody", device.path + " will be left behind",
                     device.pid_file + " will be left behind")
            lacks(device.log(), "theirs/m will be left behind")
        place.ended_well()
        same(os.stat("state.vtpm").st_uid, 0)


def test_own_user(place):
    """started by root on a host with a user vtpm it runs as that one and says so; --run-as root stays root"""
    need_filter()
    need_root()
    with open("/etc/passwd", encoding="utf-8") as file:
        if any(line.startswith("vtpm:") for line in file):
            raise Skip("this host has the user already")
    shutil.copy("/etc/passwd", "passwd")
    write_file("passwd", b"vtpm:x:54321:54321::/nonexistent:/bin/false\n", "ab")
    inside = ("unshare", "-m", "sh", "-c", "mount --bind passwd /etc/passwd && exec \"$@\"", "sh")
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        raise Skip("no mount namespace can be made here")
    os.chmod(place.folder, 0o755)
    place.create()
    for args, uid in ((), "54321"), (("--run-as", "root"), "0"), (("--sandbox", "off"), "0"):
        device = place.start("state.vtpm", *args, prefix=inside, log="log-" + uid + "-%d" % len(args))
        device.powered()
        same(status(device.pid, "Uid"), [uid] * 4, str(args))
        same("runs as user vtpm" in device.log(), uid != "0", device.log())
        device.process.terminate()
        same(device.wait(), 0, device.errors())
        place.ended_well()
    # libvirt's swtpm_user = "root"; a container
    for number, bare in enumerate((("setpriv", "--bounding-set", "-all", "--inh-caps", "-all"), ("unshare", "-Ur"))):
        if subprocess.run([*inside, *bare, "true"], capture_output=True, check=False).returncode:
            continue
        device = place.start("state.vtpm", prefix=inside + bare, log="log-bare-%d" % number)
        device.powered()
        same(status(device.pid, "Uid"), ["0"] * 4, "root that may not be another stays who it is")
        same(status(device.pid, "CapEff") + status(device.pid, "CapBnd"), ["0" * 16] * 2, str(bare))
        contains(device.log(), "does not become user vtpm")
        ended(device)
        place.refused(1, ["cannot run as vtpm"], "state.vtpm", "--run-as", "vtpm", prefix=inside + bare)


def test_management(place):
    """the management socket, which the broker makes: it is the device's, answers, and is removed at the end"""
    place.create()
    device = place.start("state.vtpm", "--manage", "unix:m")
    device.term()
    info = os.stat("state.vtpm")
    path = os.path.join(place.data_dir, "run", "%x-%x" % (info.st_dev, info.st_ino))
    process = subprocess.Popen([VTPM, "run", "state.vtpm", "--ctrl", "unix:c", "--config",
                                place.config], env=place.env, stderr=subprocess.DEVNULL)
    place.processes.append(process)
    wait_until(lambda: os.path.exists(path), "the management socket is there")
    same(stat.S_IMODE(os.stat(path).st_mode), 0o600)

    def owner():
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(path)
            except ConnectionRefusedError:
                return None
            return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)
    wait_until(lambda: owner() == process.pid, "who connects sees the device, not its broker")
    process.terminate()
    same(process.wait(30), 0)
    true(not os.path.exists(path), "it is removed")


if __name__ == "__main__":
    main(globals())
