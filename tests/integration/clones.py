# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of another VM's TPM share: VM A's, with all that a guest keeps in it, and what VM B makes of it."""
import glob
import uuid

from device import read_file, same, true, write_file
from tpm2_tools import Tools

A, B = str(uuid.uuid4()), str(uuid.uuid4())
INDEX = 0x01500016
EK, SRK, GUEST_KEY, EK_CHILD = 0x81010001, 0x81000001, 0x81000010, 0x81000011
SECRET = b"what was sealed under the SRK"


class Guest(Tools):
    """The VM UUID's tools, on a state file of its own."""

    def __init__(self, place, state, vm_uuid, *args):
        self.state = state
        super().__init__(place, "--vm-uuid", vm_uuid, *args, create=False)

    def session(self):
        self("startauthsession --policy-session -S session.ctx")
        self("policysecret -Q -S session.ctx -c e")

    def load_ek_child(self):
        """Loads the attestation key under the endorsement key; TRUE: it loads."""
        self.session()
        loads = self.run("load -Q -C 0x%x -P session:session.ctx -u ek-ak.pub -r ek-ak.priv -c ek-ak.ctx" % EK)
        self.run("flushcontext session.ctx")
        return loads.returncode == 0

    def activate(self, credential):
        """What the attestation key under the SRK and the EK make of CREDENTIAL; None: nothing."""
        self.load("ak")
        self.session()
        done = self.run("activatecredential -Q -c ak.ctx -C 0x%x -i %s -o opened -P session:session.ctx"
                        % (EK, credential))
        self.run("flushcontext session.ctx")
        return read_file("opened") if done.returncode == 0 else None

    def load(self, name):
        self("load -Q -C 0x%x -u %s.pub -r %s.priv -c %s.ctx" % (SRK, name, name, name))

    def unseals(self):
        done = self.run("load -Q -C 0x%x -u sealed.pub -r sealed.priv -c sealed.ctx" % SRK)
        return done.returncode == 0 and self("unseal -c sealed.ctx") == SECRET

    def has_index(self):
        return self.run("nvread -C o 0x%x" % INDEX).stdout == b"guestdat"

    def ek(self):
        self("readpublic -Q -c 0x%x -f pem -o ek.pem" % EK)
        return read_file("ek.pem")

    def persistent(self):
        return {int(line.split()[1], 16) for line in self("getcap handles-persistent").decode().splitlines()}


def furnish(place):
    """The TPM of VM A in a.vtpm, with all that a guest keeps in it and about it. Gives its EK."""
    place.create("a.vtpm", "--vm-uuid", A, "--ek", "rsa2048")
    tpm = Guest(place, "a.vtpm", A)
    tpm("createprimary -Q -C o -g sha256 -G ecc -c srk.ctx")
    tpm("evictcontrol -Q -C o -c srk.ctx 0x%x" % SRK)
    write_file("secret", SECRET)
    tpm("create -Q -C 0x%x -i secret -u sealed.pub -r sealed.priv" % SRK)
    tpm("create -Q -C 0x%x -G ecc256:ecdsa-sha256:null -u ak.pub -r ak.priv "
        "-a fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign" % SRK)
    tpm.load("ak")
    tpm("evictcontrol -Q -C o -c ak.ctx 0x%x" % GUEST_KEY)
    tpm("createak -Q -C 0x%x -c ek-ak.ctx -G ecc -g sha256 -s ecdsa -u ek-ak.pub -r ek-ak.priv" % EK)
    tpm("evictcontrol -Q -C o -c ek-ak.ctx 0x%x" % EK_CHILD)
    write_file("nv-data", b"guestdat")
    tpm("nvdefine -Q -C o -s 8 0x%x" % INDEX)
    tpm("nvwrite -Q -C o -i nv-data 0x%x" % INDEX)
    ek = tpm.ek()
    true(tpm.unseals() and tpm.load_ek_child() and tpm.has_index(), "what was made does not work")
    write_file("a-ek.pem", ek)
    tpm.device.term()
    return ek


def asides(name="b.vtpm"):
    return sorted(glob.glob(name + ".aside-*"))


def new_epoch(place, name, policy, vm_uuid=B, source="a.vtpm"):
    """One record, of a vTPM of its own that comes of SOURCE's."""
    (record,), (origin,) = place.inspect(name)["records"], place.inspect(source)["records"]
    same((record["epoch"], record["vm_uuid"]), (origin["epoch"] + 1, vm_uuid))
    true(record["vtpm_id"] != origin["vtpm_id"], "the vTPM id is the source's")
    same((record["parent"]["vtpm_id"], record["parent"]["policy"]), (origin["vtpm_id"], policy))
    place.sound(name)
