#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""QEMU and its firmware, as far as what they ask of a TPM goes, with no guest beyond: for an emulated guest, in which
one of its own takes hours (qemu/check-kernel)."""
import os
import socket
import subprocess
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(1, os.path.join(HERE, "..", "..", "qemu"))
from device import SHUTDOWN, die_with_parent, main, read_file, same, true, wait_until  # noqa: E402
from guest import Qmp  # noqa: E402

FIRMWARE_LIMIT = 300
AT_THE_END = b"No bootable device"


def machine(place, ctrl, model, *args):
    """QEMU with SeaBIOS, a disk for snapshots and nothing to boot; gives the process and its monitor."""
    ours, theirs = socket.socketpair()
    if not os.path.exists("disk"):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "disk", "1M"], check=True, timeout=60)
    line = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-m", "64", "-nodefaults", "-display", "none",
            "-chardev", "socket,id=tpm,path=" + ctrl, "-tpmdev", "emulator,id=tpm,chardev=tpm",
            "-device", model + ",tpmdev=tpm", "-drive", "if=virtio,format=qcow2,file=disk",
            "-chardev", "file,id=told,path=told", "-device", "isa-debugcon,iobase=0x402,chardev=told",
            "-chardev", "socket,id=qmp,fd=%d" % theirs.fileno(), "-mon", "chardev=qmp,mode=control", *args]
    with theirs, open("qemu.log", "wb") as log:
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(theirs.fileno(),),
                                   preexec_fn=die_with_parent)
    place.processes.append(process)
    qmp = Qmp(ours)
    qmp.command("qmp_capabilities")
    return process, qmp


def boots(count):
    wait_until(lambda: read_file("told").count(AT_THE_END) >= count, "the firmware is through: " + read_file("told").decode(),
               FIRMWARE_LIMIT)


def firmware(place, model):
    device = place.start(place.create())
    process, qmp = machine(place, device.path, model)
    boots(1)
    qmp.human("savevm first")
    qmp.command("system_reset")
    boots(2)
    qmp.human("loadvm first")
    same(qmp.command("query-status")["status"], "running")
    process.kill()
    process.wait()
    with device.control() as control:
        data = control.open_data()
        measured = [data.pcr(number) for number in range(8)]
        true(all(any(value) for value in measured), "the firmware has not measured: %r" % measured)
        same(b"Seccomp:\t2" in read_file("/proc/%d/status" % device.pid), True, "the device is in its sandbox")
        same(control.result(SHUTDOWN), 0)
    same(device.wait(), 0)
    place.ended_well()


def test_tis(place):
    """QEMU with tpm-tis: the firmware starts the TPM and measures; reset, savevm, loadvm"""
    firmware(place, "tpm-tis")


def test_crb(place):
    """QEMU with tpm-crb: the same"""
    firmware(place, "tpm-crb")


if __name__ == "__main__":
    main(globals())
