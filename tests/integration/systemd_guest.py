# SPDX-License-Identifier: BSD-3-Clause
"""What test_systemd.py runs in its guest, as root, its first process Debian's systemd. The tests build on each other:
the package is installed by the first one and removed by the last."""
import contextlib
import glob
import json
import os
import pwd
import re
import shutil
import stat
import subprocess
import time

from device import Control, closed, contains, main, same, true, wait_until
from tpm_bytes import nv_define, nv_write, startup

VM = "7d444840-9dc0-41d1-b245-5ffdce74fad2"
OTHER = "00112233-4455-6677-8899-aabbccddeeff"
NV = 0x1500001
STATES = "/var/lib/vtpm-vms/"
QEMU_USER = "libvirt-qemu"
PAGE = "/libvirt.md"  # of docs/


def run(*line, status=0):
    done = subprocess.run(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=60, check=False)
    if status is not None:
        same(done.returncode, status, "%r said %s" % (line, done.stdout))
    return done.stdout


def dpkg(*line, status=0):
    return run("dpkg", "--force-depends", *line, status=status)


def show(unit, what):
    return run("systemctl", "show", "--value", "-p", what, unit).strip()


def state_of(unit):
    return show(unit, "ActiveState")


def stopped(unit):
    return state_of(unit) in ("inactive", "failed")


def journal(*match):
    """Messages with their priorities."""
    return [(int(line["PRIORITY"]), line["MESSAGE"]) for line in
            map(json.loads, run("journalctl", "-q", "-o", "json", *match).splitlines())]


def as_user(*line):
    return ["setpriv", "--reuid=vtpm", "--regid=vtpm", "--init-groups", *line]


def of_page(pattern):
    """What PATTERN's groups are in docs/libvirt.md."""
    with open(PAGE, encoding="utf-8") as file:
        return re.search(pattern, file.read(), re.M | re.S).groups()


def make(name, uuid=VM, options=None):
    """A VM's TPM, as vtpm@.service(8) has it."""
    run(*as_user("vtpm", "create", STATES + name + ".vtpm", "--vm-uuid", uuid, "--ek", "none"))
    with open("/etc/vtpm/%s.env" % name, "w", encoding="ascii") as file:
        file.write("OPTIONS=%s\n" % (options or "--vm-uuid=" + uuid))
    command, = of_page(r"^```sh systemd\n(.*?)^```$")
    run("sh", "-eu", "-c", command.replace("web", name))


def connect(name, user=QEMU_USER):
    os.seteuid(pwd.getpwnam(user).pw_uid)
    try:
        return Control("/run/vtpm-vms/%s.sock" % name)
    finally:
        os.seteuid(0)


@contextlib.contextmanager
def machine(name, init=0):
    """A VM that runs: what QEMU does as its user."""
    with connect(name) as control:
        data = control.open_data()
        same(control.init(), init, "INIT")
        try:
            yield data
        finally:
            data.close()


def ended(name, result="success"):
    """Its service ends, with RESULT."""
    unit = "vtpm@%s.service" % name
    wait_until(lambda: stopped(unit), "%s ends" % unit)
    same(show(unit, "Result"), result, run("systemctl", "status", "--no-pager", unit, status=None))


def closed_well(name):
    """Both slots of the state have the mark of an orderly stop."""
    slots = json.loads(run("vtpm", "inspect", STATES + name + ".vtpm", "--json"))["state_slots"]
    same([slot["final"] for slot in slots], [True, True], "orderly stop")
    run("vtpm", "check", STATES + name + ".vtpm")


def test_install(_place):
    """The package is installed while systemd runs, and systemd finds no fault with the units"""
    dpkg("-i", "/vtpm.deb")
    run("systemd-tmpfiles", "--create")
    said = run("systemd-analyze", "verify", "--man=no", "vtpm@web.service", "vtpm@web.socket", status=None)
    same([line for line in said.splitlines() if "vtpm" in line], [])
    exposure = re.search(r"Overall exposure level for \S+: (\S+)", run("systemd-analyze", "security", "--no-pager",
                                                                      "vtpm@web.service")).group(1)
    true(float(exposure) <= 3.5, "systemd-analyze security: " + exposure)
    return "systemd-analyze security: exposure " + exposure


LIBVIRTD = """[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=sh -c 'for name in swtpm swtpm_setup swtpm_ioctl; do command -v $$name; done >/found'
"""


def found():
    """What the libvirtd that was started last finds in its PATH: real ones look there, too."""
    with open("/found", encoding="ascii") as file:
        return file.read().split()


def test_drop_in(_place):
    """With docs/libvirt.md's drop-in a libvirtd finds the programs of a build, after the page's two commands"""
    names = ["swtpm", "swtpm_setup", "swtpm_ioctl"]
    with open("/etc/systemd/system/libvirtd.service", "w", encoding="ascii") as file:
        file.write(LIBVIRTD)
    run("systemctl", "daemon-reload")
    run("systemctl", "start", "libvirtd")
    same(found(), ["/usr/bin/" + name for name in names])
    first, second, path, text, folder = of_page(r"`(systemctl daemon-reload)` and `(systemctl restart libvirtd)`.*?"
                                                r"^```ini\n# (/\S+)\n(\[Service\]\n.*?PATH=([^:]*).*?)^```$")
    os.makedirs(os.path.dirname(path))
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
    for command in (first, second):
        run("sh", "-c", command)
    same(found(), [folder + "/" + name for name in names])
    contains(run(found()[0], "--version"), "vtpm")


def test_activation(_place):
    """A connection of QEMU's user starts the service; it is ready, answers, and is confined; others may not connect"""
    make("web")
    same(state_of("vtpm@web.service"), "inactive")
    try:
        connect("web", "nobody")
    except PermissionError:
        pass
    else:
        raise AssertionError("another user may connect")
    with machine("web") as data:
        same((state_of("vtpm@web.service"), show("vtpm@web.service", "StatusText")), ("active", "serving the TPM"))
        same(data.rc(startup()), 0)
        same(data.rc(nv_define(NV, 8)), 0)
        same(data.rc(nv_write(NV, b"12345678")), 0)
        contains(run("systemctl", "status", "--no-pager", "vtpm@web.service"), 'Status: "serving the TPM"', "Active: active (running)")
        with open("/proc/%s/status" % show("vtpm@web.service", "MainPID"), encoding="ascii") as file:
            status = dict(line.rstrip().split(":\t", 1) for line in file)
        same((status["Uid"].split()[0], status["CapBnd"], status["NoNewPrivs"], status["Seccomp"]),
             (str(pwd.getpwnam("vtpm").pw_uid), "0" * 16, "1", "2"))
    ended("web")
    closed_well("web")


def test_next_start(_place):
    """The socket goes on listening: the VM is started six times in a row, and the TPM is the same one"""
    begin = time.monotonic()
    for _ in range(6):
        with machine("web") as data:
            same(data.rc(startup()), 0)
            same(data.nv(NV), b"12345678")
    ended("web")
    same(state_of("vtpm@web.socket"), "active")
    return "%.1f s a start" % ((time.monotonic() - begin) / 6)


def test_journal(_place):
    """What it says is in the journal with its priority, what it did to keys as well where vtpm.conf says so"""
    with open("/etc/vtpm/vtpm.conf", "a", encoding="ascii") as file:
        file.write("audit=journal\n")
    make("unchecked", OTHER, "--log-level=debug")
    with machine("unchecked"):
        run("vtpm", "rekey", "--deep", STATES + "unchecked.vtpm")  # over its management socket
    ended("unchecked")
    run("journalctl", "--sync")
    said = journal("-u", "vtpm@unchecked", "-t", "vtpm")
    true(any(priority == 6 and "identity-unchecked" in text for priority, text in said), said)
    true(any(priority == 7 for priority, _ in said), said)
    true(not any(re.match("<[0-9]>", text) for _, text in said), said)
    contains(run("journalctl", "-q", "-t", "vtpm", "-o", "cat"), '"act":"deep-rekey"')
    run("sed", "-i", "/^audit=/d", "/etc/vtpm/vtpm.conf")


def test_stop(_place):
    """systemctl stop while the VM runs: the state is closed in order"""
    with machine("web") as data:
        same(data.rc(startup()), 0)
        same(data.rc(nv_write(NV, b"stopped.")), 0)
        run("systemctl", "stop", "vtpm@web.service")
        same((state_of("vtpm@web.service"), show("vtpm@web.service", "Result")), ("inactive", "success"))
        closed_well("web")
    with machine("web") as data:
        same((data.rc(startup()), data.nv(NV)), (0, b"stopped."))
    ended("web")


def test_killed(_place):
    """kill -9: systemd tells it; the VM's next start has all that was answered"""
    with machine("web") as data:
        same((data.rc(startup()), data.rc(nv_write(NV, b"killed.."))), (0, 0))
        run("systemctl", "kill", "-s", "KILL", "vtpm@web.service")
        ended("web", "signal")
    with machine("web") as data:
        same((data.rc(startup()), data.nv(NV)), (0, b"killed.."))
        same(state_of("vtpm@web.service"), "active")
    ended("web")


def fails(name, word, init=None):
    """QEMU is turned away, with INIT's result where it came so far; systemctl and the journal have the WORD."""
    unit = "vtpm@%s.service" % name
    if init is None:
        with connect(name) as control:
            true(closed(control.sock), "QEMU is left waiting")
    else:
        with machine(name, init):
            pass
    ended(name, "exit-code")
    contains(run("systemctl", "status", "--no-pager", unit, status=3), "Active: failed", "[%s]" % word)
    true(any(priority == 3 and "[%s]" % word in text for priority, text in journal("-u", unit, "-t", "vtpm")), word)
    same(state_of("vtpm@%s.socket" % name), "active", "after a failure, of the socket")
    same(show(unit, "NRestarts"), "0")


def test_failures(_place):
    """What is wrong is told by systemctl status, the journal and QEMU, and is tried once; put right, it starts"""
    make("bad")
    os.rename(STATES + "bad.vtpm", STATES + "bad.saved")
    fails("bad", "state-missing", 0x101)
    os.rename(STATES + "bad.saved", STATES + "bad.vtpm")
    for options, word, init in (("--vm-uuid=" + OTHER, "identity-other", 0x0D), ("--vm-uid=" + VM, "usage", None)):
        with open("/etc/vtpm/bad.env", "w", encoding="ascii") as file:
            file.write("OPTIONS=%s\n" % options)
        fails("bad", word, init)
    os.remove("/etc/vtpm/bad.env")
    with machine("bad"):
        pass
    ended("bad")


def test_name(_place):
    """A name that systemd escapes is refused when the socket starts: its options would be passed over"""
    contains(run("systemctl", "start", "vtpm@a vm.socket", status=1), "failed")
    run("journalctl", "--sync")
    contains(run("journalctl", "-q", "-o", "cat", "-u", r"vtpm@a\x20vm.socket"), r"a\x20vm: not a name for a TPM")
    run("systemctl", "start", "vtpm@a-vm.socket")
    run("systemctl", "stop", "vtpm@a-vm.socket")


def test_folders(_place):
    """The service makes the folders that it needs beside the host's keys, and waits for where they are mounted"""
    run(*as_user("vtpm", "create", STATES + "clone.vtpm", "--vm-uuid", VM, "--ek", "ecc_nist_p384"))
    with open("/etc/vtpm/clone.env", "w", encoding="ascii") as file:
        file.write("OPTIONS=--vm-uuid=%s --on-clone=replace\n" % OTHER)
    shutil.rmtree("/var/lib/vtpm/ca")  # as where the state came from another host
    run("systemctl", "start", "vtpm@clone.socket")
    with machine("clone") as data:
        same(data.rc(startup()), 0)
    ended("clone")
    same(stat.S_IMODE(os.stat("/var/lib/vtpm/ca").st_mode), 0o2770)
    mounts = run("systemctl", "show", "--value", "-p", "RequiresMountsFor", "vtpm@clone.service").split()
    true({"/var/lib/vtpm", "/var/lib/vtpm-vms"} <= set(mounts), "it waits for %s alone" % mounts)


def test_cannot_start(_place):
    """What keeps systemd from starting it at all ends after some tries, and is started again by the administrator"""
    os.makedirs("/etc/systemd/system/vtpm@.service.d")
    with open("/etc/systemd/system/vtpm@.service.d/few.conf", "w", encoding="ascii") as file:
        file.write("[Unit]\nStartLimitBurst=3\n")
    run("systemctl", "daemon-reload")
    os.rename("/var/lib/vtpm", "/var/lib/vtpm.away")
    with connect("bad") as control:
        true(closed(control.sock), "QEMU is left waiting")
    wait_until(lambda: state_of("vtpm@bad.socket") == "failed", "systemd gives up")
    os.rename("/var/lib/vtpm.away", "/var/lib/vtpm")
    shutil.rmtree("/etc/systemd/system/vtpm@.service.d")
    run("systemctl", "daemon-reload")
    run("systemctl", "reset-failed", "vtpm@bad.service")
    run("systemctl", "start", "vtpm@bad.socket")
    with machine("bad"):
        pass
    ended("bad")


GUESTS = """[Unit]
Requires=virt-guest-shutdown.target
After=virt-guest-shutdown.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=true
ExecStop=sh -c 'sleep 1; systemctl is-active vtpm@web.service vtpm@web.socket >/guests-saw'
"""


def test_host_shuts_down(_place):
    """When the host shuts down the TPM ends after the guests, which are libvirt's to shut down"""
    for name, text in (("virt-guest-shutdown.target", "[Unit]\n"), ("libvirt-guests.service", GUESTS)):
        with open("/etc/systemd/system/" + name, "w", encoding="ascii") as file:
            file.write(text)
    run("systemctl", "daemon-reload")
    run("systemctl", "start", "libvirt-guests.service")
    with machine("web"):
        # as shutdown.target has it: all at once
        run("systemctl", "stop", "libvirt-guests.service", "virt-guest-shutdown.target", "vtpm@web.service", "vtpm@web.socket")
        closed_well("web")
    with open("/guests-saw", encoding="ascii") as file:
        same(file.read().split(), ["active", "active"])
    true(not os.path.exists("/run/vtpm-vms/web.sock"), "the socket is still there")
    run("systemctl", "start", "vtpm@web.socket")


def test_remove(_place):
    """The package is not removed while it has states, and stops what runs when it is"""
    with machine("web"):
        contains(dpkg("-r", "vtpm", status=1), "vtpm is not removed")
        same(state_of("vtpm@web.service"), "active")
        os.mkdir("/root/kept")
        for path in glob.glob(STATES + "*.vtpm"):
            os.rename(path, os.path.join("/root/kept", os.path.basename(path)))
        dpkg("-r", "vtpm")
    same(run("systemctl", "list-units", "--no-legend", "--plain", "--state=active", "vtpm@*"), "")
    same(glob.glob("/run/vtpm-vms/*"), [])
    same(glob.glob("/usr/lib/systemd/system/vtpm*"), [])


if __name__ == "__main__":
    main(globals())
