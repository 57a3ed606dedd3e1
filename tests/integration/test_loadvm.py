#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""QEMU started from a snapshot (-loadvm), which powers the TPM on before it loads its state."""
import contextlib
import os
import shutil
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import Skip, contains, main, read_file, same, true  # noqa: E402
from kernel_qemu import boots, machine  # noqa: E402
from guest import GuestError  # noqa: E402
from swtpm import STATE, VM, Served, debian, folder_of, setup  # noqa: E402


def identity(place, folder):
    record = place.inspect(os.path.join(folder, STATE))["records"][0]
    return record["vtpm_id"], record["vm_uuid"]


def need_qemu():
    if not shutil.which("qemu-system-x86_64"):
        raise Skip("qemu-system-x86_64 is missing")


def ends(process, qmp, served):
    qmp.command("quit")
    same(process.wait(60), 0)
    served.ends(0)


def test_lost_folder(place):
    """a VM goes on from its snapshot with its TPM where the TPM's own file is lost, in a folder that setup has prepared
    and in an empty one; the second time it is the one that is there"""
    need_qemu()
    folder = folder_of(VM)
    setup(place, folder, "--createek", "--vmid", "guest:" + VM)
    served = Served(place, folder, "--terminate")
    process, qmp = machine(place, "c", "tpm-crb")
    boots(1)
    qmp.human("savevm first")
    ends(process, qmp, served)
    known = identity(place, folder)
    for prepare in (True, False):
        shutil.rmtree(folder)
        os.mkdir(folder)
        if prepare:
            setup(place, folder, "--overwrite")
        for _ in range(2):
            served = Served(place, folder, "--terminate")
            process, qmp = machine(place, "c", "tpm-crb", "-loadvm", "first")
            same(qmp.command("query-status")["status"], "running", served.errors())
            ends(process, qmp, served)
            same(identity(place, folder), known)
            place.sound(os.path.join(folder, STATE))


def test_snapshot_of_swtpm(place):
    """a snapshot made on swtpm is reverted to on vtpm as long as no guest has run there, and then no more"""
    need_qemu()
    folder = folder_of(VM)
    served = Served(place, folder, "--terminate", program=debian())
    process, qmp = machine(place, "c", "tpm-crb")
    boots(1)
    qmp.human("savevm first")
    ends(process, qmp, served)
    theirs = read_file(os.path.join(folder, STATE))
    served = Served(place, folder, "--terminate")
    process, qmp = machine(place, "c", "tpm-crb", "-loadvm", "first")
    same(qmp.command("query-status")["status"], "running", served.errors())
    ends(process, qmp, served)
    place.sound(os.path.join(folder, STATE))
    same(read_file(os.path.join(folder, STATE + ".swtpm")), theirs, "it is kept")
    served = Served(place, folder, "--terminate")
    process, qmp = machine(place, "c", "tpm-crb")
    boots(1)
    ends(process, qmp, served)
    served = Served(place, folder, "--terminate")
    with contextlib.suppress(OSError, GuestError):  # QEMU may end before its monitor answers
        machine(place, "c", "tpm-crb", "-loadvm", "first")[1].command("query-status")
    true(place.processes[-1].wait(60) != 0, "QEMU tells")
    contains(served.errors(), "[blob-mismatch]")
    served.process.wait(30)
    place.sound(os.path.join(folder, STATE))


if __name__ == "__main__":
    main(globals())
