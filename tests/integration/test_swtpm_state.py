#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""State that swtpm wrote becomes ours, and back: with Debian's swtpm, under every kind of key it knows; suspended;
with the wrong key; damaged; killed at every step. What was sealed before unseals after."""
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (STORE_VOLATILE, VTPM, Control, Skip, contains, die_with_parent, lacks, main, read_file, same, true,
                    wait_until, write_file)  # noqa: E402
from keyhost import add_passphrase, audit, unchanged, vtpm  # noqa: E402
from swtpm import loop_device  # noqa: E402
from killed import killer, run_killed  # noqa: E402
from test_tpm2_tools import Tools  # noqa: E402

HERE = os.path.dirname(os.path.realpath(__file__))
SECRET = b"what was sealed under the SRK"
SRK, INDEX, EK = 0x81000001, 0x01500016, 0x81010001
VM = str(uuid.uuid4())
PERMANENT, VOLATILE = "tpm2-00.permall", "tpm2-00.volatilestate"
CLEAR = ("--plaintext",)
GUEST_FILES = ("sealed.pub", "sealed.priv", "endorsement.name")


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
        self.device = self.place.start(state, "--data", self.data, "--startup", "clear", *args, ctrl=self.ctrl)
        wait_until(lambda: self.run("getrandom 4").returncode == 0, "the TPM answers")

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


def test_plain(place):
    """plain: what was sealed with swtpm unseals with ours, and with swtpm again; identity and NV data come along"""
    there_and_back(place)


def test_key_files(place):
    """encrypted with a key in a file: hexadecimal digits and bytes, of 128 and 256 bits"""
    write_file("hex128", b"0x000102030405060708090a0b0c0d0e0f\n")
    write_file("bin256", os.urandom(31) + b"\n")
    write_file("hex256", os.urandom(32).hex().encode())
    for number, key in enumerate(("file=%s/hex128,format=hex", "file=%s/bin256,format=binary,mode=aes-256-cbc",
                                  "file=%s/hex256,format=hex,mode=aes-256-cbc")):
        folder = "%s/%d" % (place.folder, number)
        os.mkdir(folder)
        os.chdir(folder)
        place.folder, top = folder, place.folder
        there_and_back(place, key % top)
        place.folder = top


def test_passphrases(place):
    """encrypted with a passphrase, by pbkdf2 and by sha512; its last LF belongs to it, and mode= need not be said"""
    write_file("word", b"a passphrase that is longer than thirty-two bytes\n")
    for number, kdf in enumerate(("", ",kdf=sha512,mode=aes-256-cbc", ",kdf=pbkdf2,mode=aes-256-cbc")):
        folder = "%s/%d" % (place.folder, number)
        os.mkdir(folder)
        os.chdir(folder)
        place.folder, top = folder, place.folder
        there_and_back(place, "pwdfile=%s/word%s" % (top, kdf))
        place.folder = top
    os.chdir(place.folder)
    os.rename("2/old/%s.swtpm" % PERMANENT, "2/old/" + PERMANENT)
    import_it(place, "2/old", "again.vtpm", key="pwdfile=word")


def test_descriptor(place):
    """the key comes by a descriptor: a pipe that somebody fills slowly"""
    write_file("word", b"battery staple")
    made_by_swtpm(place, key="pwdfile=word,mode=aes-256-cbc")
    ours, theirs = os.pipe()
    with subprocess.Popen(["sh", "-c", "for w in bat tery ' stap' le; do printf '%s' \"$w\"; sleep 0.1; done"],
                          stdout=theirs):
        os.close(theirs)
        done = place.vtpm("import", "--swtpm", "old", "--key", "pwdfd=%d,mode=aes-256-cbc" % ours, "vm.vtpm", "--config",
                          place.config, pass_fds=[ours])
    os.close(ours)
    same(done.returncode, 0, done.stderr)
    lacks(json.dumps(audit(place, "state-import")), "staple")


def test_image(place):
    """an image (file://): the TPM in it, and the one in its place when it is imported under its own name; and back"""
    guest = made_by_swtpm(place, "file://" + os.path.join(place.folder, "vm.img"))
    original = read_file("vm.img")
    shutil.copy("vm.img", "other.img")
    import_it(place, "file://vm.img", "vm.vtpm", "--vm-uuid", VM)
    same(read_file("vm.img.swtpm"), original)
    true(not os.path.exists("vm.img"), "the image has another name")
    guest.start_ours("vm.vtpm", "--vm-uuid", VM)
    guest.has_all(b"by-swtpm")
    guest.write(b"by-ours.")
    guest.device.term()
    import_it(place, "other.img", "other.img")
    same(read_file("other.img.swtpm"), original)
    place.sound("other.img")
    image_again(place, guest)


def image_again(place, guest):
    """vtpm.vm becomes a new image, and other.img one in its place."""
    write_file("word", b"a secret word")
    word = "pwdfile=word,mode=aes-256-cbc"
    with unchanged("vm.vtpm"):
        vtpm(place, "export", "--swtpm", *CLEAR, "vm.vtpm", "file://vm.img")
        vtpm(place, "export", "--swtpm", "--key", word, "vm.vtpm", "file://locked.img")
        with unchanged("vm.img"):
            vtpm(place, "export", "--swtpm", *CLEAR, "vm.vtpm", "file://vm.img", status=3, word="state-exists")
        vtpm(place, "export", "--swtpm", *CLEAR, "vm.vtpm", "no.img", status=2, word="usage")
        vtpm(place, "export", "--swtpm", *CLEAR, "vm.vtpm", "file://nowhere/vm.img", status=2, word="usage")
    lacks(read_file("locked.img").decode("latin-1"), "by-ours.")
    contains(read_file("vm.img").decode("latin-1"), "by-ours.")
    for image, key in (("vm.img", None), ("locked.img", word)):
        guest.start_swtpm("file://" + os.path.join(place.folder, image), key)
        guest.has_all(b"by-ours.")
        for number in range(8):  # it has no room for these as it stands
            guest("nvdefine -Q 0x%x -C o -s 1024" % (INDEX + 1 + number))
        guest.stop_swtpm()
        guest.start_swtpm("file://" + os.path.join(place.folder, image), key)
        guest.has_all(b"by-ours.")
        guest.stop_swtpm()
    import_it(place, "locked.img", "again.vtpm", key=word)
    ours = read_file("other.img")
    contains(vtpm(place, "export", "--swtpm", *CLEAR, "other.img", "file://other.img").stdout, "other.img.vtpm")
    same(read_file("other.img.vtpm"), ours)
    guest.start_swtpm("file://" + os.path.join(place.folder, "other.img"))
    guest.has_all(b"by-swtpm")
    guest.stop_swtpm()
    same([name for name in os.listdir(".") if name == ".lock" or ".new." in name], [])


def test_block_device(place):
    """an image on a block device is read and left as it is"""
    made_by_swtpm(place, "file://" + os.path.join(place.folder, "vm.img"))
    os.truncate("vm.img", 4 << 20)
    with loop_device("vm.img") as device, unchanged("vm.img"):
        contains(import_it(place, device, "vm.vtpm").stdout, "left in " + device)
    place.sound("vm.vtpm")


def test_in_place(place):
    """under its own name, and back: each time the other's file is kept, and nothing is ever overwritten"""
    guest = made_by_swtpm(place)
    first = read_file("old/" + PERMANENT)
    state = "old/" + PERMANENT
    for turn in range(2):
        import_it(place, "old", state, "--vm-uuid", VM)
        guest.start_ours(state, "--vm-uuid", VM)
        guest.has_all(b"by-swtpm")
        guest.device.term()
        ours = read_file(state)
        vtpm(place, "export", "--swtpm", "--plaintext", state, "old")
        same(read_file(state + ".vtpm" + ("-2" if turn else "")), ours)
        guest.start_swtpm("old")
        guest.has_all(b"by-swtpm")
        guest.stop_swtpm()
    same(read_file(state + ".swtpm"), first)
    same(sorted(contents("old")),
         [PERMANENT, PERMANENT + ".swtpm", PERMANENT + ".swtpm-2", PERMANENT + ".vtpm", PERMANENT + ".vtpm-2"])
    vtpm(place, "import", "--swtpm", "old", state)
    vtpm(place, "import", "--swtpm", "old", state, status=2, word="usage")  # it is ours


def test_suspended(place):
    """a suspended TPM is resumed by ours with its PCRs, and one that ours suspended by swtpm"""
    write_file("word", b"correct horse")
    key = "pwdfile=%s/word,mode=aes-256-cbc" % place.folder
    guest = Guest(place)
    os.mkdir("old")
    guest.start_swtpm("old", key)
    guest.furnish()
    guest("pcrextend 16:sha256=" + "ab" * 32)
    pcr = guest.pcr()
    guest.stop_swtpm(suspend=True)
    before = contents("old")
    contains(import_it(place, "old", "vm.vtpm", "--vm-uuid", VM, key=key).stdout, "suspended", VOLATILE + ".swtpm")
    same(contents("old"), {name + ".swtpm": data for name, data in before.items()})
    shutil.copy("vm.vtpm", "copy.vtpm")
    guest.device = place.start("vm.vtpm", "--data", guest.data, "--vm-uuid", VM, ctrl=guest.ctrl)
    with Control("tpm.ctrl") as control:
        same(control.init(), 0, "INIT")
    same(guest.pcr(), pcr)
    guest.has_all(b"by-swtpm")
    guest("pcrextend 16:sha256=" + "cd" * 32)
    pcr = guest.pcr()
    with Control("tpm.ctrl") as control:
        same(control.result(STORE_VOLATILE), 0, "STORE_VOLATILE")
    guest.device.kill()
    for name in ("tpm", "tpm.ctrl"):
        if os.path.exists(name):
            os.unlink(name)
    os.mkdir("new")
    vtpm(place, "export", "--swtpm", "--key", key, "vm.vtpm", "new")
    same(sorted(contents("new")), [PERMANENT, VOLATILE])
    guest.start_swtpm("new", key, resume=True)
    same(guest.pcr(), pcr)
    guest.has_all(b"by-swtpm")
    guest.stop_swtpm()


def test_suspended_damaged(place):
    """suspended state that libtpms does not take is told apart from the rest, which can be had without it"""
    guest = Guest(place)
    os.mkdir("old")
    guest.start_swtpm("old")
    guest.furnish()
    guest.stop_swtpm(suspend=True)
    suspended = bytearray(read_file("old/" + VOLATILE))
    suspended[200] ^= 1
    write_file("old/" + VOLATILE, bytes(suspended))
    before = contents("old")
    done = import_it(place, "old", "vm.vtpm", status=3, word="state-damaged")
    contains(done.stderr, VOLATILE, "--discard-suspended")
    same(contents("old"), before)
    import_it(place, "old", "vm.vtpm", "--discard-suspended")
    same(contents("old"), {name + ".swtpm": data for name, data in before.items()})
    guest.start_ours("vm.vtpm")
    guest.has_all(b"by-swtpm")
    guest.device.term()


def left_alone(place, word, status, *args, key=None):
    before = contents("old")
    import_it(place, "old", "vm.vtpm", *args, key=key, status=status, word=word)
    same(contents("old"), before)
    same(os.path.exists("vm.vtpm"), False)
    same(glob.glob("*.new.*") + glob.glob("old/*.new.*"), [])


def test_wrong_keys(place):
    """a wrong key, a wrong kdf, none, one too many: each has its word, and nothing is changed"""
    for name in ("word", "other"):
        write_file(name, name.encode())
    write_file("short", b"0011")
    place.create()  # there is an audit log
    made_by_swtpm(place, key="pwdfile=word,mode=aes-256-cbc")
    left_alone(place, "wrong-passphrase", 4, key="pwdfile=other,mode=aes-256-cbc")
    left_alone(place, "wrong-passphrase", 4, key="pwdfile=word,kdf=sha512,mode=aes-256-cbc")
    left_alone(place, "wrong-passphrase", 4, key="pwdfile=word,mode=aes-128-cbc")
    left_alone(place, "usage", 2, key="file=short")
    left_alone(place, "usage", 2, key="word")
    left_alone(place, "key-closed", 4, key="pwdfile=not-there")
    left_alone(place, "key-closed", 4)
    same([line["outcome"] for line in audit(place, "state-import")], 3 * ["wrong-passphrase"] + ["usage"]
         + 2 * ["key-closed"])
    shutil.rmtree("old")
    made_by_swtpm(place)
    left_alone(place, "usage", 2, key="pwdfile=word")


def test_damaged(place):
    """truncated and changed state, other files, no file: each has its word, and nothing is changed"""
    made_by_swtpm(place)
    whole = read_file("old/" + PERMANENT)
    for length in (0, 9, 10, 15, 16, 600, len(whole) - 1):
        write_file("old/" + PERMANENT, whole[:length])
        left_alone(place, "state-truncated", 3)
    write_file("old/" + PERMANENT, whole + b"\0")
    left_alone(place, "state-damaged", 3)
    for offset in (2, 10, 18, 40):
        changed = bytearray(whole)
        changed[offset] ^= 0x40
        write_file("old/" + PERMANENT, bytes(changed))
        left_alone(place, "state-damaged", 3)
    write_file("old/" + PERMANENT, b"\0" * (600 << 10))
    left_alone(place, "state-damaged", 3)
    os.unlink("old/" + PERMANENT)
    left_alone(place, "state-missing", 3)
    write_file("old/tpm-00.permall", whole)
    left_alone(place, "usage", 2)
    os.unlink("old/tpm-00.permall")
    os.mkfifo("old/" + PERMANENT)
    import_it(place, "old", "vm.vtpm", status=2, word="usage")
    write_file("text", b"hello, world\n" * 100)
    import_it(place, "text", "vm.vtpm", status=3, word="state-damaged")
    import_it(place, "nowhere", "vm.vtpm", status=3, word="state-missing")
    vtpm(place, "import", "vm.vtpm", status=2, word="usage")


FORGETFUL = """#!/bin/sh
echo "vtpm-provider 1 forgetful $1 wrap unwrap"
while read -r op vtpm a b c d; do
  echo "$op" >>"$VTPM_DATA_DIR/asked"
  case $op-$(grep -c unwrap "$VTPM_DATA_DIR/asked") in
    wrap-*) echo "ok key 1 $b" ;;
    unwrap-1) echo "ok $d" ;;
    *) echo error key-destroyed it was here a moment ago ;;
  esac
done
"""


def test_not_verified(place):
    """a new file that does not open cold (its provider proved the key, and lost it) is taken back, the original stays"""
    made_by_swtpm(place)
    os.mkdir("helpers")
    write_file("helpers/vtpm-provider-forgetful", FORGETFUL, "w")
    os.chmod("helpers/vtpm-provider-forgetful", 0o755)
    os.makedirs(place.data_dir, mode=0o700)
    write_file(os.path.join(place.data_dir, "providers.conf"),
               "[provider %s]\nname=forgetful\nkind=forgetful\n" % uuid.uuid4(), "w")
    write_file(place.config, "[vtpm]\nhelper-dirs=%s;\n" % os.path.abspath("helpers"), "w")
    left_alone(place, "key-destroyed", 4, "--provider", "forgetful")
    same(read_file(os.path.join(place.data_dir, "asked")).split(), [b"wrap", b"unwrap", b"unwrap"])
    os.unlink(os.path.join(place.data_dir, "asked"))
    before = contents("old")
    import_it(place, "old", "old/" + PERMANENT, "--provider", "forgetful", status=4, word="key-destroyed")
    same(contents("old"), before)


def test_taken(place):
    """what is there is never overwritten: a state file, a symbolic link, swtpm's state; one in use is not touched"""
    guest = made_by_swtpm(place)
    before = contents("old")
    write_file("vm.vtpm", b"something")
    with unchanged("vm.vtpm"):
        import_it(place, "old", "vm.vtpm", status=3, word="state-exists")
    os.symlink("nowhere", "link.vtpm")
    import_it(place, "old", "link.vtpm", status=3, word="state-exists")
    same(contents("old"), before)
    guest.start_swtpm("old")
    done = import_it(place, "old", "other.vtpm", status=6, word="in-use")
    contains(done.stderr, "process %d" % guest.swtpm.pid)
    guest.stop_swtpm()
    place.create("ours.vtpm")
    vtpm(place, "export", "--swtpm", "--plaintext", "ours.vtpm", "old", status=3, word="state-exists")
    os.mkdir("new")
    write_file("new/" + VOLATILE, b"of another one")
    vtpm(place, "export", "--swtpm", "--plaintext", "ours.vtpm", "new", status=3, word="state-exists")
    same(contents("new"), {VOLATILE: b"of another one"})


def test_export_asks(place):
    """an export says in the clear or under which key, or is refused; and needs the state's own key"""
    place.create()
    os.mkdir("new")
    for args in ((), ("--plaintext", "--key", "pwdfile=word")):
        done = vtpm(place, "export", "--swtpm", *args, "state.vtpm", "new", status=2, word="usage")
        contains(done.stderr, "--plaintext", "--key")
    vtpm(place, "export", "--plaintext", "state.vtpm", "new", status=2, word="usage")
    vtpm(place, "export", "--swtpm", "--plaintext", "state.vtpm", "nowhere", status=2, word="usage")
    vtpm(place, "export", "--swtpm", "--plaintext", "nowhere.vtpm", "new", status=3, word="state-missing")
    vtpm(place, "export", "--swtpm", "--key", "pwdfile=not-there", "state.vtpm", "new", status=4, word="key-closed")
    add_passphrase(place, "pass")
    place.create("other.vtpm", "--provider", "pass")
    write_file("pass.word", b"another one\n")
    vtpm(place, "export", "--swtpm", "--plaintext", "other.vtpm", "new", status=4, word="wrong-passphrase")
    same(contents("new"), {})


def test_export_running(place):
    """a running TPM can be exported to another folder, but not be turned back under itself"""
    os.mkdir("vm")
    state = "vm/" + PERMANENT
    place.create(state)
    device = place.start(state)
    device.powered()
    done = vtpm(place, "export", "--swtpm", "--plaintext", state, "vm", status=6, word="in-use")
    contains(done.stderr, "process %d" % device.pid)
    same(list(contents("vm")), [PERMANENT])
    os.mkdir("new")
    vtpm(place, "export", "--swtpm", "--plaintext", state, "new")
    device.term()


def test_export_all(place):
    """a whole host turns back: every state below a folder, one that fails is told and holds nothing up"""
    guest = made_by_swtpm(place)
    theirs = read_file("old/" + PERMANENT)
    for name in ("a", "b", "c"):
        os.makedirs("host/%s/tpm2" % name)
    os.makedirs("host/d/tpm2")
    shutil.copy("old/" + PERMANENT, "host/d/tpm2")
    states = ["host/%s/tpm2/%s" % (name, PERMANENT) for name in "abcd"]
    import_it(place, "old", states[0])
    place.create(states[1])
    place.create(states[2])
    spoilt = bytearray(read_file(states[2]))
    for offset in range(0, len(spoilt), 4096):
        spoilt[offset + 100] ^= 1
    write_file(states[2], bytes(spoilt))
    done = vtpm(place, "export", "--swtpm", "--plaintext", "--all", "host", status=3, word="state-damaged")
    contains(done.stderr, states[2])
    contains(done.stdout, states[0], states[1])
    lacks(done.stdout, states[3])
    same(read_file(states[0])[:2], b"\2\1")
    same(read_file(states[1])[:2], b"\2\1")
    same(read_file(states[2]), bytes(spoilt))
    same(read_file(states[3]), theirs)
    guest.start_swtpm("host/a/tpm2")
    guest.has_all(b"by-swtpm")
    guest.stop_swtpm()
    vtpm(place, "export", "--swtpm", "--plaintext", "--all", "nowhere", status=2, word="usage")


def test_certificates(place):
    """the certificates that swtpm_setup put into the TPM are in the public part"""
    if not shutil.which("swtpm_setup"):
        raise Skip("swtpm_setup is not installed")
    os.mkdir("old")
    write_file("setup.conf", "create_certs_tool = swtpm_localca\ncreate_certs_tool_config = %s/ca.conf\n"
               "create_certs_tool_options = %s/ca.options\n" % (place.folder, place.folder), "w")
    write_file("ca.conf", "statedir = %s/ca\nsigningkey = %s/ca/key.pem\nissuercert = %s/ca/issuer.pem\n"
               "certserial = %s/ca/serial\n" % (4 * (place.folder,)), "w")
    write_file("ca.options", "--platform-manufacturer none\n--platform-version 1\n--platform-model none\n", "w")
    os.mkdir("ca")
    done = subprocess.run(["swtpm_setup", "--tpm2", "--tpm-state", "old", "--createek", "--create-ek-cert",
                           "--create-platform-cert", "--lock-nvram", "--config", "setup.conf"], capture_output=True,
                          timeout=60, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise Skip("swtpm_setup makes no certificates here")
    import_it(place, "old", "vm.vtpm", "--vm-uuid", VM)
    told = json.loads(vtpm(place, "inspect", "--certificates", "--json", "vm.vtpm").stdout)
    guest = Guest(place)
    guest.start_ours("vm.vtpm", "--vm-uuid", VM)
    same([key["kind"] for key in told["endorsement_keys"]], ["rsa2048", "ecc_nist_p384"])
    for key in told["endorsement_keys"]:
        same(guest("nvread " + key["nv_index"]).hex(), pem_bytes(key["certificate"]).hex())
        guest("readpublic -Q -c %s -f der -o ek.der" % key["handle"])
        done = subprocess.run(["sha256sum", "ek.der"], capture_output=True, text=True, timeout=10, check=True)
        same(done.stdout.split()[0], key["key_hash"])
    same(guest("nvread 0x1c08000"), pem_bytes(told["platform_certificate"]))
    guest.device.term()


def pem_bytes(pem):
    done = subprocess.run(["openssl", "x509", "-outform", "der"], input=pem.encode(), capture_output=True, timeout=10,
                          check=True)
    return done.stdout


def windows(data):
    """Every 16 bytes of DATA with more than 8 distinct ones."""
    return {data[i:i + 16] for i in range(len(data) - 15) if len(set(data[i:i + 16])) > 8}


def test_no_plaintext(place):
    """no byte of the TPM lies about in the clear, unless it did before or that was asked for"""
    write_file("word", b"correct horse")
    key = "pwdfile=word,mode=aes-256-cbc"
    made_by_swtpm(place, key=key)
    import_it(place, "old", "vm.vtpm", key=key)
    os.mkdir("sealed")
    vtpm(place, "export", "--swtpm", "--key", key, "vm.vtpm", "sealed")
    os.mkdir("clear")
    vtpm(place, "export", "--swtpm", "--plaintext", "vm.vtpm", "clear")
    plain = windows(read_file("clear/" + PERMANENT)[16:])
    true(len(plain) > 500, "there is something to look for")
    paths = [path for folder in ("old", "sealed", "data") for path in glob.glob(folder + "/**", recursive=True)]
    for path in filter(os.path.isfile, ["vm.vtpm", *paths, *glob.glob("*.new.*")]):
        same(len(windows(read_file(path)) & plain), 0, path)


def test_owner(place):
    """as root: what is made belongs to whom the old one belonged to, so the VM's user can open it"""
    if os.geteuid() != 0:
        raise Skip("needs root")
    made_by_swtpm(place)
    os.chown("old/" + PERMANENT, 65534, 65533)
    state = "old/" + PERMANENT
    import_it(place, "old", state)
    info = os.stat(state)
    same((info.st_uid, info.st_gid, info.st_mode & 0o777), (65534, 65533, 0o600))
    vtpm(place, "export", "--swtpm", "--plaintext", state, "old")
    info = os.stat(state)
    same((info.st_uid, info.st_gid, info.st_mode & 0o777), (65534, 65533, 0o600))


def test_page(place):
    """docs/libvirt.md: the commands of the section on swtpm's state, from the first to the last"""
    page = read_file(os.path.join(os.path.dirname(os.path.dirname(HERE)), "docs", "libvirt.md")).decode()
    section = re.search(r"^## State that swtpm wrote\n(.*?)(?=^## |\Z)", page, re.M | re.S).group(1)
    os.makedirs("srv/vms")
    os.makedirs("root")
    os.mkdir("bin")
    os.symlink(VTPM, "bin/vtpm")
    write_file("root/db.secret", b"correct horse")
    guests = {}
    for name, key in (("web", None), ("mail", None), ("db", "pwdfile=root/db.secret,mode=aes-256-cbc")):
        guests[name] = made_by_swtpm(place, "lib/%s/tpm2" % name, key)
        os.mkdir("of-" + name)
        for path in GUEST_FILES:
            shutil.copy(path, "of-" + name)
    env = {**place.env, "PATH": os.path.abspath("bin") + ":" + os.environ["PATH"], "XDG_CONFIG_HOME": place.folder}
    code = "".join(re.findall(r"^```sh\n(.*?)^```$", section, re.M | re.S))
    for there, here in (("/var/lib/libvirt/swtpm", "lib"), ("/srv/", "srv/"), ("/root/vtpm/", "root/")):
        code = code.replace(there, here)
    for line in code.splitlines():
        done = subprocess.run(["sh", "-eu", "-c", line], env=env, capture_output=True, stdin=subprocess.DEVNULL, text=True,
                              timeout=60, check=False)
        same(done.returncode, 0, line + done.stderr)
    same(sorted(contents("lib/mail/tpm2")), [PERMANENT, PERMANENT + ".vtpm"])
    for name, folder, key in (("web", "srv/vms/web.swtpm", None), ("mail", "lib/mail/tpm2", None),
                              ("db", "srv/vms/db.swtpm", "pwdfile=root/db.secret,mode=aes-256-cbc"),
                              ("web", "file://" + os.path.abspath("srv/vms/web.img"), None)):
        for path in GUEST_FILES:
            shutil.copy(os.path.join("of-" + name, path), path)
        guests[name].start_swtpm(folder, key)
        guests[name].has_all(b"by-swtpm")
        guests[name].stop_swtpm()


def killed_at(place, library, number, *args):
    """Whether it was killed before it could end by itself."""
    done = run_killed(place, library, os.path.basename(VTPM), number, *args)
    true(done.returncode in (0, -signal.SIGKILL), done.stderr.decode())
    return done.returncode != 0


def has_ours(place, *paths):
    """At least one of PATHS is a state file that opens; none is half of one."""
    states = [path for path in paths if os.path.exists(path) and read_file(path)[:8] == b"vtpm-hdr"]
    for path in states:
        place.sound(path)
    return bool(states)


def test_killed(place):
    """killed at any step of an import or export: the TPM is there, under its name or as the original, never half"""
    library = killer(place)
    guest = Guest(place)
    os.mkdir("old")
    guest.start_swtpm("old")
    guest.furnish()
    guest.stop_swtpm(suspend=True)
    place.create("warm-up.vtpm")  # the provider is there
    whole = contents("old")
    steps = 0
    for target in ("vm.vtpm", "vm/" + PERMANENT):
        killed = True
        while killed:
            steps += 1
            shutil.rmtree("vm", ignore_errors=True)
            shutil.copytree("old", "vm")
            for path in glob.glob("vm.vtpm*"):
                os.unlink(path)
            killed = killed_at(place, library, steps, "import", "--swtpm", "vm", target)
            after = contents("vm")
            for name, data in whole.items():
                true(data in (after.get(name), after.get(name + ".swtpm")), "%s after %d steps" % (name, steps))
            ours = has_ours(place, target)
            true(ours or after.get(PERMANENT) == whole[PERMANENT], "swtpm or we can start after %d steps" % steps)
            true(ours or after.get(VOLATILE) == whole[VOLATILE], "and resume, after %d steps" % steps)
        true(steps > 5, "it was killed %d times" % steps)
        same(sorted(n for n in after if ".new." in n), [])
        steps = 0
    shutil.copytree("vm", "imported")
    ours = read_file("vm/" + PERMANENT)
    killed = True
    while killed:
        steps += 1
        shutil.rmtree("vm")
        shutil.copytree("imported", "vm")
        killed = killed_at(place, library, steps, "export", "--swtpm", "--plaintext", "vm/" + PERMANENT, "vm")
        after = contents("vm")
        true(ours in (after[PERMANENT], after.get(PERMANENT + ".vtpm")), "ours after %d steps" % steps)
        true(after[PERMANENT] in (ours, whole[PERMANENT]), "one of both, whole, after %d steps" % steps)
        if after[PERMANENT] != ours:
            same(after[VOLATILE], whole[VOLATILE])
    true(steps > 5, "it was killed %d times" % steps)


if __name__ == "__main__":
    main(globals())
