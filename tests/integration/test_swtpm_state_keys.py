#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""State that swtpm encrypted: with every kind of key it knows, however that is given; and with the wrong one."""
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import lacks, main, read_file, same, write_file  # noqa: E402
from keyhost import audit, names  # noqa: E402
from swtpm import Served, debian, folder_of  # noqa: E402
from swtpm_guest import PERMANENT, import_it, left_alone, made_by_swtpm, there_and_back  # noqa: E402
from test_swtpm import finds_mark, made_by_debian  # noqa: E402


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


def version_1(blob, key):
    """What swtpm wrote of late, unencrypted, as its first version wrote it under KEY: the state behind its SHA-256, no
    lengths and no IV."""
    same(blob[:12], struct.pack(">BBHHIH", 2, 1, 10, 0, len(blob), 1), "a blob that is not encrypted")
    state = blob[16:]
    body = hashlib.sha256(state).digest() + state
    padding = len(key) - len(body) % len(key)
    done = subprocess.run(["openssl", "enc", "-aes-%d-cbc" % (8 * len(key)), "-nopad", "-iv", bytes(16).hex(), "-K",
                           key.hex()], input=body + bytes([padding]) * padding, capture_output=True, timeout=10,
                          check=True)
    return struct.pack(">BBHHI", 1, 1, 10, 1, 10 + len(done.stdout)) + done.stdout


def test_version_1(place):
    """a blob of swtpm's first version, encrypted, which Debian's swtpm still reads: imported, and taken over at the
    start; with another key left alone"""
    made_by_debian(place, "dir=" + folder_of("made"))
    blob = read_file(os.path.join(folder_of("made"), PERMANENT))
    for size, more in ((16, ""), (32, ",mode=aes-256-cbc")):
        key = os.urandom(size)
        write_file("key", key)
        write_file("other", key[::-1])
        for name in ("theirs", "ours", "old"):
            os.makedirs(name)
            write_file(os.path.join(name, PERMANENT), version_1(blob, key))
        with_key = ("--key", "file=key,format=binary" + more)
        served = Served(place, "theirs", *with_key, program=debian())
        finds_mark(served.powered()[1])
        served.shutdown()
        left_alone(place, "wrong-passphrase", 4, key="file=other,format=binary" + more)
        import_it(place, "old", "vm.vtpm", key=with_key[1])
        device = place.start("vm.vtpm")
        finds_mark(device.powered(start=False)[1])
        device.term()
        served = Served(place, "ours", "--key", "file=other,format=binary" + more)
        with served.control() as control:
            same(control.init(), 0x21, served.errors())
        served.ends(1, "[wrong-passphrase]")
        same(read_file(os.path.join("ours", PERMANENT)), version_1(blob, key), "left alone")
        served = Served(place, "ours", *with_key)
        finds_mark(served.powered()[1])
        served.shutdown()
        same(names(place, os.path.join("ours", PERMANENT)), ["swtpm-key"])
        same(read_file(os.path.join("ours", PERMANENT + ".swtpm")), version_1(blob, key), "the original")
        for name in ("theirs", "ours", "old"):
            shutil.rmtree(name)
        os.unlink("vm.vtpm")


if __name__ == "__main__":
    main(globals())
