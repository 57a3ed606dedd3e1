#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""A VM of Proxmox' moves between two hosts that see its TPM's volume: swtpm's command lines as Proxmox has them, a QEMU on
either side, and the volume as a block device of each, with a memory and locks of its own."""
import os
import shutil
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import Skip, contains, lacks, main, read_file, same, wait_until  # noqa: E402
from kernel_qemu import boots, machine  # noqa: E402
from swtpm import SETUP, Served, loop_device, run  # noqa: E402

SIZE = 4 << 20  # of such a volume


def served(place, device, name):
    return Served(place, None, "--terminate", "--log", "file=%s.log,level=1" % name, ctrl=name,
                  state="backend-uri=file://%s,mode=0600" % device)


class Host:
    def __init__(self, place, device, name, *args):
        self.name, self.tpm = name, served(place, device, name)
        self.qemu, self.qmp = machine(place, name, "tpm-crb", *args)
        # a source that does not wait for the target's word may be through before the target fails
        self.qmp.command("migrate-set-capabilities", capabilities=[{"capability": "return-path", "state": True}])

    def log(self):
        return read_file(self.name + ".log").decode()

    def status(self):
        return self.qmp.command("query-status")["status"]

    def quit(self):
        self.qmp.command("quit")
        same(self.qemu.wait(60), 0)
        same(self.tpm.process.wait(30), 0, self.log())


def migrates(source, to, wanted):
    source.qmp.command("migrate", uri="unix:" + to)
    wait_until(lambda: source.qmp.command("query-migrate").get("status") in ("completed", "failed"), "migration", 60)
    same(source.qmp.command("query-migrate")["status"], wanted, source.log())


def test_live_migration(place):
    """there and back: the firmware goes on with its TPM, and starts anew with it; a migration that fails leaves the VM where it
    was; what a source's end would write is not written"""
    if not shutil.which("qemu-system-x86_64"):
        raise Skip("qemu-system-x86_64 is missing")
    with open("volume", "wb") as file:
        file.truncate(SIZE)
    with loop_device(os.path.abspath("volume")) as here, loop_device(os.path.abspath("volume")) as there:
        run(place, SETUP, "--tpmstate", "file://" + here, "--createek", "--create-ek-cert", "--create-platform-cert",
            "--lock-nvram", "--not-overwrite", "--tpm2", "--ecc")
        source = Host(place, here, "here")
        boots(1)
        broken = Host(place, there, "broken", "-incoming", "unix:to-broken")
        broken.tpm.process.kill()
        migrates(source, "to-broken", "failed")
        broken.qemu.wait(60)
        wait_until(lambda: source.status() == "running", "it goes on where it was")
        contains(source.log(), "is let go of", "is held again")
        for device, name in ((there, "there"), (here, "back")):
            target = Host(place, device, name, "-incoming", "unix:to-" + name)
            migrates(source, "to-" + name, "completed")
            wait_until(lambda: target.status() == "running", "the VM goes on: " + target.log())  # noqa: B023
            target.qmp.command("system_reset")
            boots(1)
            before = read_file("volume")
            source.quit()
            same(read_file("volume"), before, "the end of " + source.name)
            lacks(target.log(), "[")
            source = target
        source.quit()
    place.sound("volume")


if __name__ == "__main__":
    main(globals())
