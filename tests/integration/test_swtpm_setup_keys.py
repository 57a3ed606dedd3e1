#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""swtpm_setup and keys: those that it makes in the TPM, side by side with Debian's, and what opens its state."""
import hashlib
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import main, same, write_file  # noqa: E402
from keyhost import names  # noqa: E402
from swtpm import SETUP, STATE, SWTPM, Served, debian, folder_of, pipe_of, run, setup  # noqa: E402
from tpm_bytes import OWNER, startup, tpm_command, words  # noqa: E402

ENDORSEMENT = 0x4000000B
HASHES = {0x0B: hashlib.sha256, 0x0C: hashlib.sha384}
PARAMETERS = {1: 14, 0x23: 12}  # their length in the public area of a key that others lie under: RSA, ECC


def handles(data, first):
    response = data.good(tpm_command(0x17A, words(1, first, 64)))
    return [int.from_bytes(response[at:at + 4], "big") for at in range(19, len(response), 4)]


def take_sized(data):
    end = 2 + int.from_bytes(data[:2], "big")
    return data[2:end], data[end:]


def kind_of(public):
    """What all keys of its kind have: the hierarchy, what stands before the numbers of the key, and their size."""
    area, rest = take_sized(public)
    name, rest = take_sized(rest)
    qualified, _ = take_sized(rest)
    digest = HASHES[int.from_bytes(area[2:4], "big")]
    hierarchies = [hierarchy for hierarchy in (OWNER, ENDORSEMENT)
                   if qualified[2:] == digest(words(hierarchy) + name).digest()]
    numbers = 10 + int.from_bytes(area[8:10], "big") + PARAMETERS[int.from_bytes(area[:2], "big")]
    return hierarchies, area[:numbers].hex(), len(area) - numbers


def kept_keys(place, folder, program):
    """The kinds of all persistent keys, by their handles."""
    served = Served(place, folder, program=program)
    data = served.powered()[1]
    data.good(startup())
    found = {handle: kind_of(data.good(tpm_command(0x173, words(handle)))[10:]) for handle in handles(data, 0x81000000)}
    served.shutdown()
    return found


def test_made_keys(place):
    """--create-spk with --ecc and without, --ecc for endorsement keys, which it leaves alone, --rsa-keysize 3072 and
    max: the persistent keys, their public areas and hierarchies are as Debian's"""
    for number, (args, wanted) in enumerate((
            (("--create-spk",), {0x81000001}),
            (("--create-spk", "--ecc"), {0x81000001}),
            (("--createek", "--ecc"), {0x81010001, 0x81010016}),
            (("--createek", "--rsa-keysize", "3072"), {0x8101001C, 0x81010016}),
            (("--createek", "--create-spk", "--rsa-keysize", "max"), {0x81000001, 0x8101001C, 0x81010016}))):
        found = []
        for program, swtpm in ((debian("swtpm_setup"), debian()), (SETUP, SWTPM)):
            folder = folder_of("host-%d-%d" % (number, len(found)))
            run(place, program, "--tpm2", "--tpm-state", folder, *args)
            found.append(kept_keys(place, folder, swtpm))
        same(found[1], found[0], str(args))
        same(set(found[1]), wanted, str(args))


def test_key_descriptor(place):
    """--keyfile-fd: a key of 128 or 256 bits by descriptor opens the state afterwards, and another does not"""
    for number, (key, cipher) in enumerate(((b"0x" + b"1f" * 16 + b"\n", "aes-128-cbc"), (b"2e" * 32, "aes-256-cbc"))):
        folder = folder_of("key-%d" % number)
        setup(place, folder, "--keyfile-fd", str(fd := pipe_of(key)), "--cipher", cipher, pass_fds=(fd,))
        same(names(place, os.path.join(folder, STATE)), ["swtpm-key"])
        for content, result in ((key.replace(b"f", b"d").replace(b"e", b"d"), 0x21), (key, 0)):
            write_file("key", content)
            served = Served(place, folder, "--key", "file=key,mode=" + cipher)
            with served.control() as control:
                same(control.init(), result, served.errors())
            if result:
                served.ends(1, "[wrong-passphrase]")
            else:
                served.shutdown()


if __name__ == "__main__":
    main(globals())
