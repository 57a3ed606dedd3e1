#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""virt-clone (virtinst) on a real libvirtd: what TPM a clone gets, by itself and by vtpm clone (docs/libvirt.md, Clones).

Environment: see libvirt_host.py.
"""
import hashlib
import os
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)
from device import Skip, contains, main, read_file, same, true  # noqa: E402
from libvirt_host import cache, domain, host, lv  # noqa: E402
from libvirt_story import STATE, record, vtpm  # noqa: E402

VIRT_CLONE = "/usr/bin/virt-clone"
SECRET = os.urandom(24).hex()


class Clone(lv.Domain):
    """A domain that virt-clone has defined; its serial line is still the first one's, which is off."""

    def __init__(self, first, name):
        self.first = first
        super().__init__(first.libvirt, name, first.cache)
        self.line = first.line

    def define(self, *_, **__):
        disk = os.path.join(self.folder, self.name + ".qcow2")
        os.unlink(disk)
        done = subprocess.run([VIRT_CLONE, "--connect", self.libvirt.uri, "--original", self.first.name, "--name", self.name,
                               "--file", disk], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=120, check=False,
                              env={"PATH": lv.SYSTEM_PATH, "LC_ALL": "C.UTF-8", "HOME": self.libvirt.folder})
        same(done.returncode, 0, "virt-clone said " + done.stdout)
        self.uuid = self.libvirt.virsh("domuuid", self.name).stdout.strip()
        self.xml = self.libvirt.virsh("dumpxml", self.name).stdout


def need_virt_clone():
    cache()
    if not os.path.exists(VIRT_CLONE):
        raise Skip(VIRT_CLONE + " is not installed")


def state_of(one):
    return os.path.join(one.libvirt.tpm_folder(one), STATE)


def test_clone(place):
    """a clone's TPM is a new one, bound to its own UUID, and the first one's is as it was; given one by vtpm clone before its
    first start, what was sealed opens"""
    del place
    need_virt_clone()
    with domain("original") as one:
        one.start()
        one.ask("seal", SECRET)
        one.power_off()
        known, before = record(host(), state_of(one)), read_file(state_of(one))
        with Clone(one, "blank") as blank:
            true(blank.uuid != one.uuid and not os.path.exists(state_of(blank)), "virt-clone copied the TPM")
            host().virsh("start", blank.name, "--paused")
            host().virsh("destroy", blank.name)
            new = record(host(), state_of(blank))
            same(new["vm_uuid"], blank.uuid)
            true(new["vtpm_id"] != known["vtpm_id"], "two VMs have one TPM")
            same(len(vtpm(host(), "list", "--duplicates", host().states, user="root").splitlines()), 1, "but for the heading")
        with Clone(one, "heir") as heir:
            folder = host().tpm_folder(heir)
            os.makedirs(folder)
            vtpm(host(), "clone", state_of(one), state_of(heir), "--vm-uuid", heir.uuid, "--on-clone", "reidentify", "--yes",
                 user="root")
            for path in (folder, state_of(heir)):
                shutil.chown(path, host().user)
            heir.start()
            same(heir.ask("unseal")[0].split()[0], hashlib.sha256(bytes.fromhex(SECRET)).hexdigest())
            heir.power_off()
            same(record(host(), state_of(heir))["vm_uuid"], heir.uuid)
        true(read_file(state_of(one)) == before, "the first one's TPM is as it was")


def test_secret(place):
    """the clone of a domain with a libvirt secret has a TPM of its own under the same secret"""
    del place
    need_virt_clone()
    number = host().secret(os.urandom(16).hex().encode(), "of both")
    with domain("locked", f"<encryption secret='{number}'/>") as one:
        for each in (one, Clone(one, "locked-too")):
            host().virsh("start", each.name, "--paused")
            host().virsh("destroy", each.name)
            found = record(host(), state_of(each))
            same((found["vm_uuid"], [slot["provider_name"] for slot in found["key_slots"]]), (each.uuid, ["swtpm-passphrase"]))


def test_external(place):
    """an external TPM's socket is in the clone's XML as it was in the first one's, as the page says"""
    del place
    need_virt_clone()
    with domain("served", template="libvirt-external.xml") as one:
        contains(Clone(one, "served-too").xml, "path='%s'" % os.path.join(host().folder, "served.tpm"))


if __name__ == "__main__":
    main(globals())
