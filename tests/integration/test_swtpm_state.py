#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""State that swtpm wrote becomes ours, and back, with Debian's swtpm: from folders, images, disks; suspended; a whole
host. What was sealed before unseals after."""
import glob
import json
import os
import re
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (STORE_VOLATILE, VTPM, Control, Skip, contains, lacks, main, read_file, same, true,  # noqa: E402
                    write_file)
from keyhost import unchanged, vtpm  # noqa: E402
from swtpm import loop_device  # noqa: E402
from swtpm_guest import (CLEAR, INDEX, PERMANENT, VM, VOLATILE, Guest, contents, import_it, made_by_swtpm,  # noqa: E402
                         there_and_back)

HERE = os.path.dirname(os.path.realpath(__file__))
GUEST_FILES = ("sealed.pub", "sealed.priv", "endorsement.name")


def test_plain(place):
    """plain: what was sealed with swtpm unseals with ours, and with swtpm again; identity and NV data come along"""
    there_and_back(place)


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
        contains(import_it(place, device, device, status=2, word="usage").stderr, "block device", "FILE")
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
    suspend_ours(guest)
    os.mkdir("new")
    vtpm(place, "export", "--swtpm", "--key", key, "vm.vtpm", "new")
    same(sorted(contents("new")), [PERMANENT, VOLATILE])
    guest.start_swtpm("new", key, resume=True)
    same(guest.pcr(), pcr)
    guest.has_all(b"by-swtpm")
    guest.stop_swtpm()


def suspend_ours(guest):
    with Control("tpm.ctrl") as control:
        same(control.result(STORE_VOLATILE), 0, "STORE_VOLATILE")
    guest.device.kill()
    for name in ("tpm", "tpm.ctrl"):
        if os.path.exists(name):
            os.unlink(name)


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
    with open(states[1], "r+b") as file:
        file.write(bytes(4096))  # one copy of its header is lost: it opens all the same
    place.create(states[2])
    spoilt = bytearray(read_file(states[2]))
    for offset in range(0, len(spoilt), 4096):
        spoilt[offset + 100] ^= 1
    spoilt[:4096] = bytes(4096)
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


def test_export_all_spares(place):
    """one that has a secret of libvirt's does not go in the clear with the others, though an escrow slot opens it; nor
    does what a link leads to go where the link is"""
    write_file("word", b"a secret word")
    for folder in ("host/a", "host/b", "disk"):
        os.makedirs(folder)
    secret, link, target = "host/a/" + PERMANENT, "host/b/" + PERMANENT, "disk/tpm"
    place.create(secret)
    vtpm(place, "keys", "add", secret, "--provider", "swtpm-passphrase", "--password-file", "word")
    place.create(target)
    os.symlink(os.path.abspath(target), link)
    with unchanged(secret), unchanged(target):
        done = vtpm(place, "export", "--swtpm", "--plaintext", "--all", "host", status=1)
    contains(done.stderr, link + " is a link,", "have the file itself there", secret + " has a secret of libvirt's", "--key")
    same(done.stdout, "")
    same(sorted(os.listdir("host/a")), [PERMANENT])
    true(os.path.islink(link), "the link stands")
    vtpm(place, "export", "--swtpm", "--key", "pwdfile=word,mode=aes-256-cbc", "--all", "host/a")
    same(read_file(secret)[:2], b"\2\1")


def test_export_again(place):
    """an export that was killed is run again: what it left in the clear goes, and what it had written stands"""
    guest = made_by_swtpm(place)
    import_it(place, "old", "old/" + PERMANENT, "--vm-uuid", VM)
    guest.start_ours("old/" + PERMANENT, "--vm-uuid", VM)
    guest("pcrextend 16:sha256=" + "ab" * 32)
    pcr = guest.pcr()
    suspend_ours(guest)
    os.mkdir("other")
    vtpm(place, "export", "--swtpm", "--plaintext", "old/" + PERMANENT, "other")
    suspended = read_file("other/" + VOLATILE)
    left = [PERMANENT + tail for tail in (".new.0123abcd", ".new.0123abcd.new.aB3dEf", ".new.aB3dEf")]
    left.append(VOLATILE + ".new.aB3dEf")
    not_left = [PERMANENT + tail for tail in (".new.0123abcd.", ".new.", ".new.aB3dEfg", ".new.0123abcd.new.aB3dEfg")]
    for name in left + not_left:
        write_file("old/" + name, b"in the clear")
    write_file("old/" + VOLATILE, suspended[:-1] + bytes([suspended[-1] ^ 1]))
    with unchanged("old/" + PERMANENT):
        vtpm(place, "export", "--swtpm", "--plaintext", "old/" + PERMANENT, "old", status=3, word="state-exists")
    write_file("old/" + VOLATILE, suspended)
    vtpm(place, "export", "--swtpm", "--plaintext", "old/" + PERMANENT, "old")
    same([name for name in left if os.path.exists("old/" + name)], [])
    same([name for name in not_left if not os.path.exists("old/" + name)], [])
    same(read_file("old/" + VOLATILE), suspended)
    guest.start_swtpm("old", resume=True)
    same(guest.pcr(), pcr)
    guest.stop_swtpm()


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


if __name__ == "__main__":
    main(globals())
