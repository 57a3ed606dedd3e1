#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The test guest: OVMF, Debian's cloud kernel and our initramfs in QEMU, with a TPM process behind it.

As a module: Guest boots it stage by stage and asks it things over the serial line (see qemu/init).
As a program, to look at one boot with a TPM in a temporary folder:

  guest.py [--tpm vtpm|swtpm] [--model tpm-crb|tpm-tis] [VERB [ARGUMENT...]]    VERB as in qemu/init, default pcrs

Environment: VTPM, VTPM_PLAINSTATE (programs), VTPM_TEST_CACHE (kernel and initramfs, default ./guest-cache).
"""
import argparse
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)
from tpms import GuestError, Swtpm, TpmProcess, Vtpm, die_with_parent, last_lines, log_paths  # noqa: E402

OVMF_CODE = "/usr/share/OVMF/OVMF_CODE_4M.fd"
OVMF_VARS = "/usr/share/OVMF/OVMF_VARS_4M.fd"
QEMU = "qemu-system-x86_64"
STAGE_LIMIT = 180
SO_SNDBUFFORCE = 32  # asm-generic/socket.h
SERIAL_BUFFER = 8 << 20
PROGRAMS = (QEMU, "qemu-img", "tpm2", "cpio", "apt-get", "dpkg")


def missing():
    """What the guest needs and this machine lacks, or None."""
    for program in PROGRAMS:
        if not shutil.which(program):
            return f"{program} is not installed"
    for path in (OVMF_CODE, OVMF_VARS):
        if not os.path.exists(path):
            return f"{path} is not there; install ovmf"
    return None


def prepare():
    """Makes kernel and initramfs where they are not cached yet; returns the cache folder."""
    cache = os.path.abspath(os.environ.get("VTPM_TEST_CACHE", "./guest-cache"))
    for step in ("fetch-kernel", "initramfs"):
        done = subprocess.run([os.path.join(HERE, step), cache], stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=700, check=False)
        if done.returncode != 0:
            raise GuestError(done.stderr.decode("utf-8", "replace").strip())
    return cache


def accelerator():
    """An openable /dev/kvm proves nothing: where the processor shows no vmx or svm, KVM may crawl."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        flags = file.read()
    if not re.search(r"^flags\s*:.*\b(vmx|svm)\b", flags, re.MULTILINE):
        return "tcg"
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return "tcg"
    return "kvm"


def serial_line():
    """Our end and QEMU's. QEMU writes the guest's bytes one by one, each of which takes almost a KiB of a socket's buffer,
    and drops them after a few tries where that is full (hw/char/serial.c, MAX_XMIT_RETRY): a reader that waits for a
    processor would miss some of a screen. So it is made as large as this user may."""
    ours, theirs = socket.socketpair()
    try:
        theirs.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SERIAL_BUFFER)
    except PermissionError:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SERIAL_BUFFER)
    return ours, theirs


class Qmp:
    """QEMU's machine protocol over one end of a socket pair."""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = b""
        self.events = []

    def _message(self, limit):
        end = time.monotonic() + limit
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.sock], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise GuestError(f"QEMU does not answer its monitor within {limit} s")
            data = self.sock.recv(65536)
            if not data:
                raise GuestError("QEMU closed its monitor")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def command(self, name, limit=STAGE_LIMIT, **arguments):
        self.sock.sendall(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
        while True:
            message = self._message(limit)
            if "error" in message:
                raise GuestError(f"QEMU refuses {name}: {message['error'].get('desc')}")
            if "return" in message:
                return message["return"]
            if "event" in message:
                self.events.append(message["event"])

    def human(self, line):
        """A monitor command that has no QMP form we could wait for as simply. It prints only what went wrong."""
        answer = self.command("human-monitor-command", **{"command-line": line}).strip()
        if answer:
            raise GuestError(f"QEMU refuses {line}: {answer}")

    def wait_for_status(self, query, wanted, failed=()):
        end = time.monotonic() + STAGE_LIMIT
        while True:
            status = self.command(query).get("status", "none")
            if status == wanted:
                return
            if status in failed or time.monotonic() > end:
                raise GuestError(f"{query} says {status}, not {wanted}")
            time.sleep(0.05)


class Guest:
    """One QEMU with its TPM process; use it in a with statement, which ends both whatever happens."""

    def __init__(self, folder, cache, tpm, label, model="tpm-crb", progress=print, incoming=None, reboots=False):
        self.folder, self.cache, self.tpm, self.label, self.model = folder, cache, tpm, label, model
        self.progress, self.incoming, self.reboots = progress, incoming, reboots
        self.serial_log = os.path.join(folder, f"{label}-serial.log")
        self.qemu_log = os.path.join(folder, f"{label}-qemu.log")
        self.variables = os.path.join(folder, "ovmf-vars.qcow2")
        self.buffer = b""
        self.requests = 0
        self.process = self.tpm_process = self.serial = self.qmp = None

    def __enter__(self):
        try:
            self._start()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, kind, error, trace):
        if self.process:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()
        if self.tpm_process:
            self.tpm_process.kill()
        for sock in (self.serial, self.qmp and self.qmp.sock):
            if sock:
                sock.close()
        if error is not None and isinstance(error, Exception):
            self._report(error)

    def _report(self, error):
        self.progress(f"{self.label}: {error}")
        tpm_log, tpm_errors = log_paths(self.folder, self.label)
        for what, path in (("serial line", self.serial_log), ("QEMU", self.qemu_log), ("TPM's log", tpm_log),
                           ("TPM's standard error", tpm_errors)):
            lines = last_lines(path)
            self.progress(f"--- {what}: {'the last lines' if lines else 'nothing'}")
            for line in lines:
                self.progress("    " + re.sub(r"[^ -~]", "?", line))

    def _start(self):
        if not os.path.exists(self.variables):
            self._make_variables()
        self.tpm_process = TpmProcess(self.tpm, self.folder, self.label, incoming=self.incoming is not None)
        self.serial, serial_theirs = serial_line()
        qmp_ours, qmp_theirs = socket.socketpair()
        self.qmp = Qmp(qmp_ours)
        theirs = (serial_theirs.fileno(), qmp_theirs.fileno())
        with open(self.qemu_log, "wb") as log:
            self.process = subprocess.Popen(self._command(*theirs), cwd=self.folder, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, pass_fds=theirs, preexec_fn=die_with_parent)
        serial_theirs.close()
        qmp_theirs.close()
        self.qmp.command("qmp_capabilities")

    def _make_variables(self):
        # qcow2: savevm wants every writable image to take snapshots, and puts the machine's state into this one
        subprocess.run(["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", OVMF_VARS, self.variables],
                       check=True, timeout=60, stdin=subprocess.DEVNULL)

    def _machine(self):
        """The machine, its firmware and what it boots."""
        return ["-M", "q35", "-accel", accelerator(), "-m", "256",
                "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF_CODE}",
                "-drive", f"if=pflash,unit=1,format=qcow2,file={self.variables}",
                "-kernel", os.path.join(self.cache, "vmlinuz"), "-initrd", os.path.join(self.cache, "initramfs"),
                "-append", "console=ttyS0 loglevel=0 panic=-1"]

    def _command(self, serial, qmp):
        line = [QEMU, *self._machine(), "-nodefaults", "-display", "none",
                "-chardev", f"socket,id=serial,fd={serial}", "-serial", "chardev:serial",
                "-chardev", f"socket,id=qmp,fd={qmp}", "-mon", "chardev=qmp,mode=control",
                "-chardev", f"socket,id=chrtpm,path={self.tpm_process.ctrl}",
                "-tpmdev", "emulator,id=tpm0,chardev=chrtpm", "-device", f"{self.model},tpmdev=tpm0"]
        if self.incoming:
            line += ["-incoming", f"exec:cat <{self.incoming}"]
        if not self.reboots:
            line += ["-no-reboot"]
        return line

    def expect(self, pattern, what, limit=STAGE_LIMIT):
        """Reads the serial line up to a match of PATTERN; returns the match. What came before it is dropped."""
        end = time.monotonic() + limit
        while True:
            match = re.search(pattern, self.buffer)
            if match:
                self.buffer = self.buffer[match.end():]
                return match
            ready, _, _ = select.select([self.serial], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise GuestError(f"{what}: nothing of the kind within {limit} s")
            data = self._receive()
            if not data:
                raise GuestError(f"{what}: QEMU ended first, status {self.process.wait(30)}")

    def _receive(self):
        try:
            data = self.serial.recv(65536)
        except ConnectionResetError:
            return b""
        with open(self.serial_log, "ab") as log:
            log.write(data)
        self.buffer += data
        return data

    def stages(self):
        """(name, what the serial line says at its end, what is awaited) of each part of a boot."""
        return [("firmware", rb"EFI stub: ", "the firmware to start the kernel"),
                ("kernel", rb"guest: up\r?\n", "the kernel to start our init"),
                ("tpm", rb"guest: (ready|no TPM)\r?\n", "the guest's TPM device")]

    def boot(self):
        """From power-on or reset until the guest takes requests, a progress line for each stage."""
        for stage, pattern, what in self.stages():
            start = time.monotonic()
            match = self.expect(pattern, what)
            if match.groups() and match.group(1) != b"ready":
                raise GuestError("the guest sees no TPM that answers")
            self.progress(f"{self.label}: {stage:<9}{time.monotonic() - start:6.1f} s")

    def ask(self, verb, *arguments, may_fail=False):
        """Has the guest do VERB. Returns its output as lines, or (status, lines) where it may fail."""
        self.requests += 1
        self.serial.sendall(" ".join([str(self.requests), verb, *arguments]).encode() + b"\n")
        match = self.expect(rb"(?s)^(.*?)guest: end %d (\d+)\r?\n" % self.requests, f"the guest to end '{verb}'")
        text = match.group(1).decode("utf-8", "replace")
        lines = re.findall(r"^guest\| (.*?)\r?$", text, re.MULTILINE)
        status = int(match.group(2))
        if may_fail:
            return status, lines
        if status != 0:
            raise GuestError(f"'{verb}' failed in the guest with status {status}: " + " / ".join(lines[-6:]))
        return lines

    def reset(self):
        self.buffer = b""
        self.qmp.command("system_reset")

    def power_off(self):
        """An orderly end: the guest powers off, QEMU tells the TPM, both processes end with status 0."""
        self.requests += 1
        self.serial.sendall(b"%d poweroff\n" % self.requests)
        self._wait_for_the_end()

    def quit(self):
        """Ends a QEMU whose guest does not run any more (migrated away)."""
        self.qmp.command("quit")
        self._wait_for_the_end()

    def _wait_for_the_end(self):
        end = time.monotonic() + STAGE_LIMIT
        while True:
            ready, _, _ = select.select([self.serial], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise GuestError(f"QEMU has not ended within {STAGE_LIMIT} s")
            if not self._receive():
                break
        status = self.process.wait(STAGE_LIMIT)
        if status != 0:
            raise GuestError(f"QEMU ended with status {status}")
        self.tpm_process.wait()


class Workplace:
    """A temporary folder that is gone afterwards, also after SIGTERM."""

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(1))
        self.folder = tempfile.mkdtemp(prefix="vtpm-guest.")
        return self.folder

    def __exit__(self, *error):
        shutil.rmtree(self.folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description="Boots the test guest once and asks it one thing.")
    parser.add_argument("--tpm", choices=("vtpm", "swtpm"), default="vtpm")
    parser.add_argument("--model", choices=("tpm-crb", "tpm-tis"), default="tpm-crb")
    parser.add_argument("request", nargs="*", default=["pcrs"])
    options = parser.parse_args()
    with Workplace() as folder:
        tpm = (Vtpm if options.tpm == "vtpm" else Swtpm)(folder)
        lack = missing() or tpm.missing()
        if lack:
            sys.exit(f"guest: {lack}")
        tpm.create()
        with Guest(folder, prepare(), tpm, "boot", model=options.model) as guest:
            guest.boot()
            print("\n".join(guest.ask(*options.request)))
            guest.power_off()


if __name__ == "__main__":
    try:
        main()
    except GuestError as problem:
        sys.exit(f"guest: {problem}")
