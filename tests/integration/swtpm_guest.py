# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of swtpm's state share: a guest whose TPM is Debian's swtpm or ours, by turns."""
import glob
import os
import shutil
import signal
import subprocess
import uuid

from device import STORE_VOLATILE, Control, Skip, contains, die_with_parent, read_file, same, wait_until, write_file
from keyhost import unchanged, vtpm
from tpm2_tools import Tools

SECRET = b"what was sealed under the SRK"
SRK, INDEX = 0x81000001, 0x01500016
VM = str(uuid.uuid4())
PERMANENT, VOLATILE = "tpm2-00.permall", "tpm2-00.volatilestate"
CLEAR = ("--plaintext",)


class Guest(Tools):
    """tpm2-tools over a TPM that is swtpm's or ours at the moment."""

    def __init__(self, place):
        if not shutil.which("swtpm"):
            raise Skip("swtpm is not installed")
        self.swtpm = None
        super().__init__(place, create=False)

    def start(self, kind="clear"):
        """By one of the two below."""

    def start_swtpm(self, where, key=None, resume=False):
        uri = where if "://" in where else "dir=" + where
        line = ["swtpm", "socket", "--tpm2", "--tpmstate", ("backend-uri=" if "://" in where else "") + uri,
                "--ctrl", "type=unixio,path=tpm.ctrl", "--server", "type=unixio,path=tpm", "--pid", "file=swtpm.pid",
                "--flags", "not-need-init" + ("" if resume else ",startup-clear"), *(("--key", key) if key else ())]
        with open("swtpm.log", "ab") as log:
            self.swtpm = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                          preexec_fn=die_with_parent)
        self.place.processes.append(self.swtpm)
        wait_until(lambda: os.path.exists("swtpm.pid") or self.swtpm.poll() is not None, "swtpm listens")
        wait_until(lambda: self.run("getrandom 4").returncode == 0, "swtpm answers: " + read_file("swtpm.log").decode())

    def stop_swtpm(self, suspend=False):
        if suspend:
            with Control("tpm.ctrl") as control:
                same(control.result(STORE_VOLATILE), 0, "STORE_VOLATILE")
            self.swtpm.send_signal(signal.SIGKILL)
        else:
            self.swtpm.terminate()
        self.swtpm.wait(10)
        for name in ("swtpm.pid", "tpm", "tpm.ctrl"):
            if os.path.exists(name):
                os.unlink(name)

    def start_ours(self, state, *args):
        self.state, self.args = state, args
        super().start()

    def furnish(self):
        write_file("secret", SECRET)
        self("createprimary -Q -C o -g sha256 -G ecc -c primary.ctx")
        self("evictcontrol -Q -C o -c primary.ctx 0x%x" % SRK)
        self("create -Q -C 0x%x -i secret -u sealed.pub -r sealed.priv" % SRK)
        self("nvdefine -Q 0x%x -C o -s 8 -a ownerread|ownerwrite" % INDEX)
        self.write(b"by-swtpm")
        self("createprimary -Q -C e -G ecc -c e.ctx")
        self("readpublic -Q -c e.ctx -n endorsement.name")

    def write(self, value):
        write_file("value", value)
        self("nvwrite -Q 0x%x -C o -i value" % INDEX)

    def has_all(self, value):
        """Its secret, its identity and VALUE."""
        self("load -Q -C 0x%x -u sealed.pub -r sealed.priv -c sealed.ctx" % SRK)
        same(self("unseal -c sealed.ctx"), SECRET)
        same(self("nvread -C o 0x%x" % INDEX), value)
        self("createprimary -Q -C e -G ecc -c e.ctx")
        self("readpublic -Q -c e.ctx -n again.name")
        same(read_file("again.name"), read_file("endorsement.name"))


def made_by_swtpm(place, where="old", key=None):
    """The guest, and a TPM that it furnished, switched off."""
    guest = Guest(place)
    if "://" not in where:
        os.makedirs(where)
    guest.start_swtpm(where, key)
    guest.furnish()
    guest.stop_swtpm()
    return guest


def import_it(place, where, state, *args, key=None, status=0, word=None, **options):
    return vtpm(place, "import", "--swtpm", where, *(("--key", key) if key else ()), *args, state, status=status,
                word=word, **options)


def contents(folder):
    return {name: read_file(os.path.join(folder, name)) for name in os.listdir(folder) if name != ".lock"}


def there_and_back(place, key=None, back=None):
    """KEY, and what swtpm is to be told in the end (the same)."""
    guest = made_by_swtpm(place, key=key)
    original = read_file("old/" + PERMANENT)
    done = import_it(place, "old", "vm.vtpm", "--vm-uuid", VM, key=key)
    contains(done.stdout, VM, "old/%s.swtpm" % PERMANENT)
    same(contents("old"), {PERMANENT + ".swtpm": original})
    guest.start_ours("vm.vtpm", "--vm-uuid", VM)
    guest.has_all(b"by-swtpm")
    guest.write(b"by-ours.")
    guest.device.term()
    os.mkdir("new")
    with unchanged("vm.vtpm"):
        vtpm(place, "export", "--swtpm", *(("--key", key) if key else CLEAR), "vm.vtpm", "new")
    same(list(contents("new")), [PERMANENT])
    same(os.stat("new/" + PERMANENT).st_mode & 0o777, 0o600)
    guest.start_swtpm("new", back or key)
    guest.has_all(b"by-ours.")
    guest.stop_swtpm()
    return guest


def left_alone(place, word, status, *args, key=None):
    before = contents("old")
    import_it(place, "old", "vm.vtpm", *args, key=key, status=status, word=word)
    same(contents("old"), before)
    same(os.path.exists("vm.vtpm"), False)
    same(glob.glob("*.new.*") + glob.glob("old/*.new.*"), [])
