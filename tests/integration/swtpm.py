# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of swtpm's command lines share: our programs of those names, and Debian's beside them."""
import contextlib
import os
import shutil
import socket
import subprocess

from device import (Control, Skip, Tpm, VTPM, connect, contains, die_with_parent, read_file, same, wait_until, write_file)

COMPAT = os.path.join(os.path.dirname(VTPM), "swtpm-compat")
SWTPM, SETUP, IOCTL = (os.path.join(COMPAT, name) for name in ("swtpm", "swtpm_setup", "swtpm_ioctl"))
STATE, SUSPENDED = "tpm2-00.permall", "tpm2-00.volatilestate"
MARKS = [".vtpm-provisioned", "vtpm-provisioned"]  # one is enough
VM = "3a1f2b64-7e13-4f09-9d7c-0b7f2a0a5d11"
OTHER_VM = "c4c2a8b0-40a5-4e6e-a1f0-0c8f5f0b9d22"


def debian(name="swtpm"):
    """Debian's program of that name."""
    path = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if not path or os.path.dirname(os.path.realpath(path)) == os.path.realpath(COMPAT):
        raise Skip("%s is not installed" % name)
    return path


def environment(place):
    return {**place.env, "VTPM_CONFIG": place.config}


def folder_of(vm, where="swtpm"):
    """As libvirt calls it."""
    path = os.path.join(where, vm, "tpm2")
    os.makedirs(path, exist_ok=True)
    return path


def unmark(folder):
    for mark in MARKS:
        os.unlink(os.path.join(folder, mark))


def pipe_of(secret):
    """A descriptor that gives SECRET, as libvirt passes one."""
    ours, theirs = os.pipe()
    os.write(theirs, secret)
    os.close(theirs)
    return ours


def run(place, program, *args, status=0, pass_fds=(), env=None, timeout=60, **options):
    done = subprocess.run([program, *args], env={**environment(place), **(env or {})}, capture_output=True, text=True,
                          timeout=timeout, check=False, pass_fds=pass_fds, **{"stdin": subprocess.DEVNULL, **options})
    for fd in pass_fds:
        os.close(fd)
    if status is not None:
        same(done.returncode, status, " ".join([program, *args]) + ": " + done.stdout + done.stderr)
    return done


def setup(place, folder, *args, **options):
    return run(place, SETUP, "--tpm2", "--tpm-state", folder, *args, **options)


def ioctl(place, *args, **options):
    return run(place, IOCTL, *args, **options)


class Served:
    """One `swtpm socket`, or another INTERFACE; ours unless PROGRAM says else."""

    def __init__(self, place, folder, *args, program=SWTPM, ctrl="c", wait=True, pass_fds=(), env=None, tpm2=True,
                 preexec=None, state=None, interface="socket", stdout=None):
        self.ctrl = ctrl
        line = [program, interface, *(("--tpm2",) if tpm2 else ()),
                "--tpmstate", state or "dir=%s,mode=0600" % folder,
                *(("--ctrl", "type=unixio,path=%s,mode=0600" % ctrl) if ctrl else ()), *args]

        def prepare():
            die_with_parent()
            if preexec:
                preexec()

        with open("swtpm.err", "wb") as err:
            self.process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=stdout or err, stderr=err,
                                            pass_fds=pass_fds, env={**environment(place), **(env or {})},
                                            preexec_fn=prepare)
        place.processes.append(self.process)
        for fd in pass_fds:
            os.close(fd)
        if wait and ctrl:
            wait_until(lambda: self.process.poll() is not None or self.answers(), "swtpm listens")
            same(self.process.poll(), None, "it runs: " + self.errors())

    def answers(self):
        with contextlib.suppress(OSError):
            connect(self.ctrl).close()
            return True
        return False

    def errors(self):
        return read_file("swtpm.err").decode()

    def control(self):
        return Control(self.ctrl)

    def powered(self):
        control = self.control()
        data = control.open_data()
        same(control.init(), 0, "INIT: " + self.errors())
        return control, data

    def ends(self, status, *pieces, limit=30):
        same(self.process.wait(limit), status, self.errors())
        contains(self.errors(), *pieces)

    def shutdown(self):
        with self.control() as control:
            same(control.result(3), 0, "SHUTDOWN")
        same(self.process.wait(30), 0, self.errors())


def data_at(address):
    """The data channel listens a moment after the control channel."""
    found = []

    def connects():
        with contextlib.suppress(OSError):
            found.append(connect(address))
        return found

    wait_until(connects, "%s listens" % (address,))
    return Tpm(found[0])


@contextlib.contextmanager
def loop_device(path):
    """A block device that is the file PATH."""
    try:
        done = subprocess.run(["losetup", "-f", "--show", path], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise Skip("no loop devices") from None
    device = done.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "-d", device], timeout=10, check=True)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def escrow_config(place, provider):
    write_file(place.config, "[vtpm]\nescrow=%s\ninit-wait=20\nstore-wait=1\n" % provider, "w")
