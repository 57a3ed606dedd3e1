#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""swtpm_setup as libvirt and people call it: what is made, what is left alone, what is set aside."""
import fcntl
import json
import os
import shutil
import stat
import struct
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import VTPM, change_file, contains, lacks, main, need_root, read_file, same, true, write_file  # noqa: E402
from keyhost import add_passphrase, names  # noqa: E402
from swtpm import (MARKS, OTHER_VM, SETUP, STATE, SUSPENDED, SWTPM, VM, Served, debian, environment,  # noqa: E402
                   escrow_config, folder_of, loop_device, pipe_of, run, setup)
from test_full_disk import small_disk  # noqa: E402
from test_store import Failing  # noqa: E402
from tpm_bytes import create_primary, evict, nv_read, rc_of, startup, tpm_command, words  # noqa: E402

LIBVIRT = ("--createek", "--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--not-overwrite")
CONFIG_FILES = ("swtpm_setup.conf", "swtpm-localca.conf", "swtpm-localca.options")
QUICK = ("--not-overwrite",)  # without endorsement keys


def record(place, where):
    return place.inspect(os.path.join(where, STATE) if os.path.isdir(where) else where)["records"][0]


def banks(data):
    """The PCR banks that have PCRs, as hash algorithms."""
    response = data.good(tpm_command(0x17A, words(5, 0, 1)))
    count, found, at = int.from_bytes(response[15:19], "big"), set(), 19
    for _ in range(count):
        algorithm, size = int.from_bytes(response[at:at + 2], "big"), response[at + 2]
        if any(response[at + 3:at + 3 + size]):
            found.add(algorithm)
        at += 3 + size
    return found


def powered_banks(place, folder, *args, **options):
    served = Served(place, folder, *args, **options)
    control, data = served.powered()
    data.good(startup())
    found = banks(data)
    control.close()
    served.shutdown()
    return found


def test_libvirt(place):
    """libvirt's command line: keys, certificates, identity, mark; a log in the file that is named; again it is left"""
    folder = folder_of(VM)
    setup(place, folder, "--vmid", "guest:" + VM, "--logfile", "log", "--write-ek-cert-files", ".", *LIBVIRT)
    known = record(place, folder)
    same((known["vm_uuid"], known["awaits_incoming"], len(known["key_slots"])), (VM, False, 1))
    told = json.loads(place.vtpm("inspect", "--certificates", "--json", os.path.join(folder, STATE)).stdout)
    same([key["kind"] for key in told["endorsement_keys"]], ["rsa2048", "ecc_nist_p384"])
    true(told["platform_certificate"], "a platform certificate")
    contains(read_file("log").decode(), "made vTPM %s of VM %s" % (known["vtpm_id"], VM))
    for name in ("ek-rsa2048.crt", "ek-secp384r1.crt"):
        text = subprocess.run(["openssl", "x509", "-inform", "der", "-noout", "-text"], input=read_file(name),
                              capture_output=True, check=True).stdout.decode()
        contains(text, known["vtpm_id"])
    before = read_file(os.path.join(folder, STATE))
    setup(place, folder, "--vmid", "guest:" + VM, *LIBVIRT)
    same(read_file(os.path.join(folder, STATE)), before)
    same(sorted(os.listdir(folder)), sorted([*MARKS, STATE]))


def test_identity(place):
    """the VM is that of --vmid, else of the folder's name, else none; one that is no UUID is none"""
    for number, (vm, args, wanted) in enumerate(((VM, ("--vmid", "guest:" + OTHER_VM), OTHER_VM), (VM, (), VM),
                                                 (VM, ("--vmid", "100"), VM), ("plain", ("--vmid", OTHER_VM), OTHER_VM),
                                                 ("plain", (), None), ("plain", ("--vmid", "guest:x"), None))):
        folder = folder_of(vm, "host-%d" % number)
        setup(place, folder, *QUICK, *args)
        same(record(place, folder)["vm_uuid"], wanted, str(args))


def test_existing(place):
    """what is there: refused with exit 1, left with --not-overwrite, set aside with --overwrite; all of it still opens"""
    folder = folder_of("plain")
    path = os.path.join(folder, STATE)
    setup(place, folder)
    first = read_file(path)
    done = setup(place, folder, status=1)
    contains(done.stderr, "[state-exists]")
    setup(place, folder, "--not-overwrite")
    same(read_file(path), first)
    setup(place, folder, "--overwrite", "--createek")
    same(read_file(path + ".overwritten"), first)
    true(record(place, path)["vtpm_id"] != record(place, path + ".overwritten")["vtpm_id"], "it is another TPM")
    place.sound(path)
    place.sound(path + ".overwritten")
    second = read_file(path)
    setup(place, folder, "--overwrite", "--createek")
    same([read_file(path + ".overwritten"), read_file(path + ".overwritten-2")], [first, second])


def test_overwrite_refused(place):
    """--overwrite: a TPM that runs is left; where the new one cannot be made the old one is in its place again"""
    folder = folder_of("plain")
    path = os.path.join(folder, STATE)
    setup(place, folder)
    served = Served(place, folder)
    served.powered()
    before = os.stat(path).st_ino
    contains(setup(place, folder, "--overwrite", "--createek", status=1).stderr, "[in-use]")
    same((os.stat(path).st_ino, os.path.exists(path + ".overwritten")), (before, False))
    served.shutdown()
    before = read_file(path)
    escrow_config(place, "nobody")
    done = setup(place, folder, "--overwrite", "--createek", "--pwdfile-fd", str(fd := pipe_of(b"word")), status=1,
                 pass_fds=(fd,))
    contains(done.stderr, "[provider-unknown]")
    same((read_file(path), sorted(os.listdir(folder))), (before, sorted([*MARKS, STATE])))
    escrow_config(place, "native")
    done = setup(place, folder, "--overwrite", "--createek", "--create-ek-cert", "--write-ek-cert-files", "nowhere",
                 status=1)
    contains(done.stderr, "nowhere")
    same((read_file(path), sorted(os.listdir(folder))), (before, sorted([*MARKS, STATE])), "what failed late")
    folder = folder_of(OTHER_VM)
    setup(place, folder, "--createek", "--create-ek-cert", "--write-ek-cert-files", "nowhere", status=1)
    same(os.listdir(folder), [], "where there was none")


def test_folder_not_synced(place):
    """where the folder cannot be synced nothing is made, and what was there has its name and no other"""
    failing = Failing(place, os.path.dirname(folder_of("plain")))
    os.rmdir(folder_of("plain"))
    folder = failing.env["FAILING_STORE_FILE"]
    write_file(os.path.join(folder, "image"), bytes(4 << 20))
    failing.break_store()
    for where in ("new", "image"):
        path = "file://" + os.path.join(folder, where)
        done = setup(place, path, "--not-overwrite", status=1, env=failing.env)
        contains(done.stderr, "[store-failed]", folder)
        same((os.listdir(folder), read_file(os.path.join(folder, "image"))), (["image"], bytes(4 << 20)))
    failing.mend()
    setup(place, "file://" + os.path.join(folder, "image"), "--not-overwrite")
    place.sound(os.path.join(folder, "image"))


def test_overwrite_device(place):
    """--overwrite of an image on a block device: it keeps its name, for a file in its place in /dev would be gone with
    the power"""
    write_file("vm.img", b"nilmptws" + bytes(1 << 20))
    with loop_device("vm.img") as device:
        os.symlink(device, "disk")
        done = setup(place, "file://" + os.path.join(place.folder, "disk"), "--overwrite", status=1)
    contains(done.stderr, "[usage]", "no regular file")
    same(os.readlink("disk"), device)
    true(not os.path.lexists("disk.overwritten"), "it has one name")


def test_swtpm_state_kept(place):
    """state of swtpm's: refused, left, set aside with what was suspended; a damaged file of ours is set aside too"""
    folder = folder_of("plain")
    path = os.path.join(folder, STATE)
    for name in (STATE, SUSPENDED):
        write_file(os.path.join(folder, name), bytes((2, 1, 0, 10, 0, 0, 0, 0, 0, 26)) + words(0) + bytes(12))
    before = read_file(path)
    contains(setup(place, folder, status=1).stderr, "[state-exists]")
    setup(place, folder, "--not-overwrite")
    same(read_file(path), before)
    setup(place, folder, "--overwrite")
    same(sorted(os.listdir(folder)), sorted([*MARKS, STATE, STATE + ".overwritten", SUSPENDED + ".overwritten",
                                             *([".lock"] if os.path.exists(os.path.join(folder, ".lock")) else [])]))
    same([read_file(os.path.join(folder, name) + ".overwritten") for name in (STATE, SUSPENDED)], [before, before])
    folder = folder_of("damaged")
    path = os.path.join(folder, STATE)
    setup(place, folder)
    change_file(path, 0, bytes(700 << 10))
    damaged = read_file(path)
    contains(setup(place, folder, status=1).stderr, "[state-exists]")
    setup(place, folder, "--overwrite", "--createek")
    same(read_file(path + ".overwritten"), damaged)
    place.sound(path)


def endorsement_keys(data):
    """What stands before the key itself in both, and their templates where they have one in NV."""
    found = []
    for handle, index, size in ((0x81010001, 0x01C00004, 310), (0x81010016, 0x01C00017, 70)):
        public = data.good(tpm_command(0x173, words(handle)))[12:]
        policy = int.from_bytes(public[8:10], "big")
        template = data.run(nv_read(index, size))
        found += [public[:10 + policy + 8].hex(), template.hex() if rc_of(template) == 0 else "no template"]
    return found


def test_signing(place):
    """--allow-signing, and with it --decryption: endorsement keys and templates as swtpm's; a clone's are of that kind too"""
    kinds = set()
    for number, args in enumerate(((), ("--decryption",), ("--allow-signing",), ("--allow-signing", "--decryption"))):
        found = []
        for program, swtpm in ((debian("swtpm_setup"), debian()), (SETUP, SWTPM)):
            folder = folder_of(VM, "host-%d-%d" % (number, len(found)))
            run(place, program, "--tpm2", "--tpm-state", folder, "--createek", *args)
            served = Served(place, folder, program=swtpm)
            data = served.powered()[1]
            data.good(startup())
            found.append(endorsement_keys(data))
            served.shutdown()
        same(found[1], found[0], str(args))
        kinds.add(tuple(found[1]))
        served = Served(place, folder_of(VM, "host-%d-0" % number))  # takes swtpm's over
        served.powered()
        served.shutdown()
        for source in range(2):
            name = "clone-%d-%d" % (number, source)
            run(place, VTPM, "clone", os.path.join(folder_of(VM, "host-%d-%d" % (number, source)), STATE), name, "--vm-uuid",
                OTHER_VM, "--on-clone", "reidentify", "--config", place.config)
            device = place.start(name)
            same(endorsement_keys(device.powered()[1]), found[1], str(args))
            device.term()
    same(len(kinds), 3)


def test_signing_by_guest(place):
    """a key that signs, which a guest puts in the place of an endorsement key, does not make its clone's sign"""
    folder = folder_of(VM)
    run(place, SETUP, "--tpm2", "--tpm-state", folder, "--createek")
    served = Served(place, folder)
    data = served.powered()[1]
    data.good(startup())
    before = endorsement_keys(data)
    public = bytes.fromhex(before[2])[:4] + words(0x600F2) + bytes.fromhex(before[2])[8:58]
    public += bytes.fromhex("0010 0010 0004 0010 0000 0000")  # no symmetric algorithm, no scheme, P-384, no KDF, no point
    made = data.good(create_primary(public))
    data.good(evict(int.from_bytes(made[10:14], "big"), 0x8101000A))  # of P-256
    served.shutdown()
    run(place, VTPM, "clone", os.path.join(folder, STATE), "clone", "--vm-uuid", OTHER_VM, "--on-clone", "reidentify",
        "--config", place.config)
    device = place.start("clone")
    same(endorsement_keys(device.powered()[1]), before)
    device.term()


def test_incoming(place):
    """--overwrite without VM and keys, as libvirt prepares for an incoming TPM, makes one that says so and is no VM's"""
    folder = folder_of(VM)
    setup(place, folder, "--logfile", "log", "--overwrite")
    known = record(place, folder)
    same((known["vm_uuid"], known["awaits_incoming"]), (None, True))
    for args in (("--overwrite", "--vmid", "x:" + VM), ("--overwrite", "--createek")):
        setup(place, folder, *args)
        same(record(place, folder)["awaits_incoming"], False, str(args))


def test_secret(place):
    """a passphrase by descriptor, in pieces or by file makes the only key slot; the secret stands nowhere"""
    for number, (option, word) in enumerate((("fd", b"a libvirt secret"), ("file", b"word in a file\n"), ("fd", b"x" * 1024))):
        folder = folder_of("secret-%d" % number)
        if option == "fd":
            setup(place, folder, "--pwdfile-fd", str(fd := pipe_of(word)), "--cipher", "aes-256-cbc", pass_fds=(fd,))
        else:
            write_file("word", word)
            setup(place, folder, "--pwdfile", "word")
        same(names(place, os.path.join(folder, STATE)), ["swtpm-passphrase"])
        lacks(read_file(os.path.join(folder, STATE)), word.strip())
    true(not os.path.exists(os.path.join(place.data_dir, "providers.conf")), "no provider was made for it")
    folder = folder_of("empty")
    contains(setup(place, folder, "--pwdfile-fd", str(fd := pipe_of(b"")), status=1, pass_fds=(fd,)).stderr,
             "[key-closed] the descriptor of --pwdfile-fd is empty: it must hold the passphrase")
    contains(setup(place, folder, "--pwdfile-fd", str(fd := pipe_of(b"x" * 1025)), status=1, pass_fds=(fd,)).stderr,
             "[key-closed] the descriptor of --pwdfile-fd holds more than 1024 bytes")
    same(os.listdir(folder), [])


def test_implied_providers(place):
    """the providers of --key are known without an entry, not listed, neither changed nor removed; one of the same UUID
    may be made, and goes before"""
    folder = folder_of("implied")
    path = os.path.join(folder, STATE)
    setup(place, folder, "--pwdfile-fd", str(fd := pipe_of(b"word")), pass_fds=(fd,))
    number = record(place, folder)["key_slots"][0]["provider"]
    lacks(place.vtpm("provider", "list", "--config", place.config).stdout, "swtpm-")
    for name in ("swtpm-passphrase", "swtpm-key"):
        for args in (("rotate", name), ("remove", name, "--search", ".", "--yes"), ("rename", name, "other")):
            done = place.vtpm("provider", *args, "--config", place.config)
            true(done.returncode != 0, "provider " + " ".join(args))
    true(not os.path.exists(os.path.join(place.data_dir, "providers.conf")), "nothing was listed")
    write_file("word", b"word")
    done = place.vtpm("provider", "create", "mine", "--kind", "passphrase", "--uuid", number, "--option",
                      "password-file=" + os.path.abspath("word"), "--config", place.config)
    same(done.returncode, 0, done.stderr)
    same(names(place, path), ["mine"])
    place.sound(path)


def test_key_file(place):
    """a key file of 128 or 256 bits, in digits or bytes; one that is none is refused and nothing is made"""
    for number, (content, good) in enumerate(((b"0x" + b"1f" * 16 + b"\n", True), (b"2e" * 32, True), (b"1f" * 15, False),
                                              (b"zz" * 16, False))):
        folder = folder_of("key-%d" % number)
        write_file("key", content)
        done = setup(place, folder, "--keyfile", "key", status=0 if good else 1)
        lacks(done.stderr, " --key ")
        if good:
            same(names(place, os.path.join(folder, STATE)), ["swtpm-key"])
        else:
            same(os.listdir(folder), [], done.stderr)
    write_file("key", b"1f" * 16)
    told = setup(place, folder_of("other"), "--keyfile", "key", "--cipher", "aes-256-cbc", status=1).stderr
    contains(told, "what --keyfile names holds no key: it is of another size than the cipher that was given")


def test_escrow(place):
    """escrow= in vtpm.conf adds a second slot beside the secret's, which opens it alone; without a secret it adds none"""
    add_passphrase(place, "safe", "escrow word")
    escrow_config(place, "safe")
    folder = folder_of("escrow")
    path = os.path.join(folder, STATE)
    setup(place, folder, "--pwdfile-fd", str(fd := pipe_of(b"libvirt's word")), pass_fds=(fd,))
    same(names(place, path), ["swtpm-passphrase", "safe"])
    contains(place.check(path).stdout, "safe")
    true(powered_banks(place, folder), "it opens without the secret")
    before = read_file(path)
    contains(setup(place, folder, "--pwdfile-fd", str(fd := pipe_of(b"another")), "--pcr-banks", "sha1", "--reconfigure", status=1,
                   pass_fds=(fd,)).stderr, "[wrong-passphrase]")
    true(read_file(path) == before, "a wrong secret changes nothing")
    folder = folder_of("plain")
    setup(place, folder)
    true("swtpm-passphrase" not in names(place, os.path.join(folder, STATE)), "no secret, no slot")


def test_banks(place):
    """PCR banks: SHA-256 by default, a list, - for all, the configuration file's; the last counts least, and
    unknown ones do not count"""
    write_file("setup.conf", b"# a comment\ncreate_certs_tool = /bin/false\nactive_pcr_banks = sha1,sha512\n")
    for number, (args, wanted) in enumerate((((), {0x0B}), (("--pcr-banks", "sha1,sha384"), {4, 0x0C}),
                                             (("--pcr-banks", "-"), {4, 0x0B, 0x0C, 0x0D}),
                                             (("--config", "setup.conf"), {4, 0x0D}),
                                             (("--pcr-banks", "sha512,foo"), {0x0D}), (("--pcr-banks", " sha1,"), {4}),
                                             (("--config", "setup.conf", "--pcr-banks", "sha256"), {0x0B}))):
        folder = folder_of("banks-%d" % number)
        setup(place, folder, *args)
        same(powered_banks(place, folder), wanted, str(args))


def test_reconfigure(place):
    """--reconfigure changes the banks of a TPM in use and nothing else; the same banks again write nothing"""
    folder = folder_of(VM)
    path = os.path.join(folder, STATE)
    setup(place, folder)
    same(powered_banks(place, folder), {0x0B})
    setup(place, folder, "--pcr-banks", "sha1,sha384", "--reconfigure", "--logfile", "log")
    same(powered_banks(place, folder), {4, 0x0C})
    before = read_file(path)
    setup(place, folder, "--pcr-banks", "sha1,sha384", "--reconfigure")
    same(read_file(path), before)
    place.ended_well(path)
    contains(setup(place, folder_of("none"), "--pcr-banks", "sha1", "--reconfigure", status=1).stderr, "[state-missing]")
    same(os.listdir(folder_of("none")), [])
    served = Served(place, folder)
    served.powered()
    contains(setup(place, folder, "--pcr-banks", "sha1", "--reconfigure", status=1).stderr, "[in-use]")
    served.shutdown()


def test_reconfigure_secret(place):
    """--reconfigure under a secret: with it; a wrong one is told in the log and changes nothing"""
    folder = folder_of(VM)
    path = os.path.join(folder, STATE)
    setup(place, folder, "--pwdfile-fd", str(fd := pipe_of(b"good")), pass_fds=(fd,))
    before = read_file(path)
    setup(place, folder, "--pwdfile-fd", str(fd := pipe_of(b"bad")), "--pcr-banks", "sha1", "--reconfigure", "--logfile",
          "log", status=1, pass_fds=(fd,))
    contains(read_file("log").decode(), "[wrong-passphrase]")
    same(read_file(path), before)
    setup(place, folder, "--pwdfile-fd", str(fd := pipe_of(b"good")), "--pcr-banks", "sha1", "--reconfigure",
          pass_fds=(fd,))
    same(powered_banks(place, folder, "--key", "pwdfd=%d" % (fd := pipe_of(b"good")), pass_fds=(fd,)), {4})


def test_lost(place):
    """where a TPM was and is gone no other is made: by the mark, or by what only a TPM leaves; --overwrite makes one"""
    for left in (*MARKS, STATE + ".bak", SUSPENDED):
        folder = folder_of("lost-" + left)
        if left in MARKS:
            setup(place, folder)
            for name in {*MARKS, STATE} - {left}:
                os.unlink(os.path.join(folder, name))
        else:
            write_file(os.path.join(folder, left), b"x")
        for args in ((), ("--not-overwrite",)):
            contains(setup(place, folder, "--createek", *args, status=1).stderr, "[state-missing]", left, "--overwrite")
            same(os.listdir(folder), [left])
        setup(place, folder, "--createek", "--overwrite")
        place.sound(os.path.join(folder, STATE))


def test_half_a_mark(place):
    """a disk that is full between the two names of the mark: nothing is made, and nothing tells of a TPM that was not"""
    for inodes in range(2, 8):  # the folder's, the state's, the two names', what is made for a moment
        with small_disk(place, "tmpfs", 4 << 20, "nr_inodes=%d" % inodes):
            os.mkdir("disk/vm")
            done = setup(place, "disk/vm", status=None)
            same(sorted(os.listdir("disk/vm")), [] if done.returncode else sorted([*MARKS, STATE]), done.stderr)
        shutil.rmtree("disk")
    same(done.returncode, 0, "with inodes enough")


def test_no_file(place):
    """a state is kept in a file or on a block device: a FIFO is told of and left, also with --not-overwrite and
    --overwrite"""
    os.mkfifo("other")
    for args in ((), ("--not-overwrite",), ("--overwrite",)):
        contains(setup(place, "file://" + os.path.abspath("other"), *args, status=1).stderr, "[usage]", "/other")
    true(stat.S_ISFIFO(os.lstat("other").st_mode), "it is left")


def test_place_unknown(place):
    """a file:// state that is in no folder which a search for all TPMs looks through is told of; others are not"""
    folders = [os.path.join(place.folder, name) for name in ("known", "unknown")]
    for folder in folders:
        os.mkdir(folder)
    with open(place.config, "a", encoding="utf-8") as file:
        file.write("state-dirs=%s\n" % folders[0])
    lacks(setup(place, "file://%s/image" % folders[0]).stderr, "state-dirs")
    contains(setup(place, "file://%s/image" % folders[1]).stderr, folders[1] + "/image is in no folder of state-dirs")


def test_place(place):
    """dir:// and file:// say where; file:// is a file of any name and leaves no mark"""
    os.mkdir("d")
    setup(place, "dir://" + os.path.abspath("d"))
    same(sorted(os.listdir("d")), sorted([*MARKS, STATE]))
    setup(place, "file://" + os.path.abspath("image"))
    place.sound("image")
    same(stat.S_IMODE(os.stat("image").st_mode), 0o600)
    contains(setup(place, "file://" + os.path.abspath("image"), status=1).stderr, "[state-exists]")


def test_blank(place):
    """a file that was made to take a state and holds none is no state: --not-overwrite makes one; what fails puts it back"""
    where = "file://" + os.path.abspath("image")

    def formatted():
        run(place, debian(), "socket", "--tpm2", "--print-states", "--tpmstate", "backend-uri=" + where)
        true(os.path.getsize("image") > 0, "Debian's has formatted it")
        return read_file("image")
    for content in (b"", bytes(4 << 20), formatted()):
        write_file("image", content)
        setup(place, where, "--not-overwrite", "--pcr-banks", "md5", status=1)
        same((read_file("image"), os.path.exists("image.overwritten")), (content, False))
        setup(place, where, "--not-overwrite", "--createek")
        place.sound("image")
        true(not os.path.exists("image.overwritten"), "what held nothing is kept")
        write_file("image", content)
        served = Served(place, None, state="backend-uri=" + where)
        served.powered()
        served.shutdown()
        place.sound("image")
        true(not os.path.exists("image.overwritten"), "what held nothing is kept")
    header = content
    for content in (bytes(640 << 10), b"x" + bytes(4 << 20), bytes(4 << 20) + b"x", header + b"x", header[:100],
                    header[:16] + b"\1" + header[17:]):  # may have been a state, or something
        write_file("image", content)
        setup(place, where, "--not-overwrite")
        same((read_file("image"), os.path.exists("image.overwritten")), (content, False))
        Served(place, None, "--flags", "not-need-init", state="backend-uri=" + where, wait=False).ends(1)
        same(read_file("image"), content)
    write_file("image", bytes(4 << 20))
    with open("image", "r+b") as file:  # as another that is at it
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqixxxx", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        setup(place, where, "--not-overwrite")
        same((read_file("image"), os.path.exists("image.overwritten")), (bytes(4 << 20), False), "it is locked")
    os.unlink("image")
    write_file("elsewhere", bytes(4 << 20))
    os.symlink("elsewhere", "image")
    setup(place, where, "--not-overwrite")
    Served(place, None, "--flags", "not-need-init", state="backend-uri=" + where, wait=False).ends(1)
    same((os.readlink("image"), read_file("elsewhere")), ("elsewhere", bytes(4 << 20)), "a link is left")
    folder = folder_of(VM)
    write_file(os.path.join(folder, STATE), header)
    setup(place, folder, "--not-overwrite")
    same(read_file(os.path.join(folder, STATE)), header, "in a folder there is no such file")


def test_at_once(place):
    """several --not-overwrite at once make one TPM, and each is content"""
    folder = folder_of(VM)
    running = [subprocess.Popen([SETUP, "--tpm2", "--tpm-state", folder, "--createek", "--not-overwrite"], env=environment(place),
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(5)]
    said = [process.communicate(timeout=60)[1] for process in running]
    same([process.returncode for process in running], [0] * 5, str(said))
    same(sorted(os.listdir(folder)), sorted([*MARKS, STATE]))
    place.sound(os.path.join(folder, STATE))


def test_config_file(place):
    """--config /dev/null, as mkosi has it; an authority's program that it names is not run, and that is said"""
    setup(place, folder_of("a"), "--pcr-banks", "sha256", "--config", "/dev/null")
    for tool, told in (("/usr/share/swtpm/swtpm-localca", False), ("/opt/site/our-ca", True)):
        write_file("setup.conf", "create_certs_tool = %s\n" % tool, "w")
        for args in (("--createek", "--create-ek-cert"), ()):
            said = setup(place, folder_of("%s%d" % (os.path.basename(tool), len(args))), "--config", "setup.conf", *args).stderr
            same("create_certs_tool" in said, told and bool(args), said)


def test_refused(place):
    """TPM 1.2, taking ownership and what is no option are refused with a word and exit 1"""
    folder = folder_of("plain")
    for args, piece in ((("--tpm-state", folder), "TPM 1.2"), (("--tpm2",), "--tpm-state"),
                        (("--tpm2", "--tpm-state", folder, "--take-ownership"), "TPM 1.2"),
                        (("--tpm2", "--tpm-state", folder, "--ownerpass", "x"), "TPM 1.2"),
                        (("--tpm2", "--tpm-state", folder, "--no-such"), "--no-such"),
                        (("--tpm2", "--tpm-state", folder, "--pcr-banks", "md5"), "md5"),
                        (("--tpm2", "--tpm-state", folder, "--rsa-keysize", "1024"), "1024"),
                        (("--tpm2", "--tpm-state", folder, "--config", "/nonexistent"), "/nonexistent"),
                        (("--tpm2", "--tpm-state", folder, "--pwdfile", "w", "--cipher", "rot13"), "rot13"),
                        (("--tpm2", "--tpm-state", folder, "--cipher", "rot13"), "rot13"),
                        (("--tpm2", "--tpm-state", folder, "--pwdfile-fd", "977"), " --pwdfile-fd: 'pwdfd=977'"),
                        (("--tpm2", "--tpm-state", folder, "--keyfile", ""), " --keyfile: 'file='"),
                        (("--tpm2", "--tpm-state", folder, "--keyfile-fd", "977"), " --keyfile-fd: 'fd=977'"),
                        (("--create-config-files", "always"), "always"), (("--create-config-files=root,x",), "'x'"),
                        (("--tpm2", "--tpm-state", folder, "--runas", "no-such-user"), "no-such-user"),
                        (("--tpm2", "--tpm-state", "no/such/folder"), "no/such/folder")):
        done = run(place, SETUP, *args, status=1)
        contains(done.stderr, "[usage]", piece)
        same(os.listdir(folder), [])


def test_words(place):
    """capabilities are JSON that libvirt reads; --version and --help end with 0"""
    told = json.loads(run(place, SETUP, "--print-capabilities").stdout)
    same(told["type"], "swtpm_setup")
    for feature in ("tpm-2.0", "cmdarg-pwdfile-fd", "cmdarg-create-config-files", "cmdarg-reconfigure-pcr-banks"):
        true(feature in told["features"], feature)
    true("tpm-1.2" not in told["features"], "no TPM 1.2")
    run(place, SETUP, "--version")
    contains(run(place, SETUP, "--help").stdout, "--tpm2")


def written_by(place, program, folder):
    run(place, program, "--create-config-files", "root", env={"XDG_CONFIG_HOME": os.path.abspath(folder)})
    return {name: read_file(os.path.join(folder, name)).decode() for name in CONFIG_FILES}


def words_of(text):
    """The names that something is given to in a configuration file, or the options."""
    return [line.replace("=", " ").split()[0] for line in text.splitlines() if not line.startswith("#")]


def test_config_files(place):
    """--create-config-files: the files that Debian's swtpm_setup writes, which it takes itself; told what they say by one"""
    ours, theirs = written_by(place, SETUP, "ours/there"), written_by(place, debian("swtpm_setup"), "theirs")
    for name in CONFIG_FILES:
        same(words_of(ours[name]), words_of(theirs[name]), name)
    for name in ("swtpm_setup.conf", "swtpm-localca.conf"):
        same([line for line in ours[name].splitlines() if not line.startswith("#")],
             [line.replace("/theirs", "/ours/there") for line in theirs[name].splitlines() if not line.startswith("#")])
    os.mkdir("made")
    there = {"XDG_CONFIG_HOME": os.path.abspath("ours/there")}
    run(place, debian("swtpm_setup"), "--tpm2", "--tpm-state", "made", "--create-ek-cert", env=there)
    setting = os.path.join("ours/there", "swtpm_setup.conf")
    write_file(setting, ours["swtpm_setup.conf"].replace("banks = sha256", "banks = sha384,sha1"), "w")
    setup(place, folder_of(VM), env=there)
    same(powered_banks(place, folder_of(VM)), {4, 0x0C})


def test_config_files_there(place):
    """--create-config-files: what is there is left unless told otherwise; root says so"""
    there = {"XDG_CONFIG_HOME": "", "HOME": os.path.abspath("home")}

    def told(words, status=0, *pieces):
        done = run(place, SETUP, "--create-config-files", *words, env=there, status=status)
        contains(done.stdout + done.stderr, *pieces)

    if os.geteuid() == 0:
        for words in ((), ("skip-if-exist",), ("overwrite",)):
            told(words, 1, "[usage]", "root")
        true(not os.path.exists("home"), "nothing was written")
    path = os.path.abspath("home/.config/swtpm-localca.conf")
    told(("root",), 0, "Writing " + path)
    write_file(path, b"mine")
    os.unlink("home/.config/swtpm_setup.conf")
    told(("root",), 1, "[usage]", path)
    told(("root,skip-if-exist",))
    told(("root,skip-if-exist,overwrite",), 1, "[usage]", "exclude")
    same((read_file(path), os.path.exists("home/.config/swtpm_setup.conf")), (b"mine", False))
    told(("root,overwrite",), 0, "swtpm_setup.conf")
    contains(read_file(path).decode(), "signingkey = ")
    os.chmod("home/.config", 0o755)
    write_file("file", b"")
    there["HOME"] = os.path.abspath("file")
    told(("root",), 1, os.path.abspath("file"))


def test_keys_not_to_be_read(place):
    """a key file or passphrase that cannot be read, or is empty, is told with its name and why; nothing is made"""
    folder = folder_of(VM)
    write_file("empty", b"")
    for option in ("--keyfile", "--pwdfile"):
        for name, why in (("/nonexistent", "No such file"), ("empty", "is empty"), (".", "Is a directory")):
            told = setup(place, folder, option, name, status=1).stderr
            contains(told, name, why)
            lacks(told, "--password-file")
    contains(setup(place, folder, "--reconfigure", "--keyfile", "/nonexistent", status=1).stderr, "from /nonexistent: No such")
    same(os.listdir(folder), [])


def test_keys_of_another_user(place):
    """a key file or passphrase that the user may not read is refused with access-denied"""
    need_root()
    folder = folder_of(VM)
    os.mkdir("data")
    for path in (".", "swtpm", "swtpm/" + VM):
        os.chmod(path, 0o755)
    write_file("secret", b"1f" * 16)
    os.chmod("secret", 0o600)
    for option, what in (("--keyfile", "key"), ("--pwdfile", "passphrase")):
        told = setup(place, folder, "--runas", "nobody", option, "secret", status=1,
                     env={"VTPM_DATA_DIR": os.path.abspath("data")}).stderr
        contains(told, "[access-denied] cannot read the %s from secret: Permission denied" % what)


def test_options_of_debian(place):
    """every option that Debian's swtpm_setup --help names is an option here"""
    import re
    text = run(place, debian("swtpm_setup"), "--help").stdout
    options = set(re.findall(r"^\s*(--[a-z0-9_-]+)", text, re.MULTILINE))
    true(len(options) > 25, "options were found: %s" % options)
    for option in sorted(options):
        done = run(place, SETUP, option, *(("x",) if option not in ("--help",) else ()), status=None)
        lacks(done.stderr, "'%s' is no option here" % option)


if __name__ == "__main__":
    main(globals())
