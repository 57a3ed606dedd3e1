#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""vtpm reidentify and replace: what a guest loses, what of its own is left in our places, and what is told before."""
import os
import shutil
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from certificates import certificates, nv, openssl  # noqa: E402
from clones import A, B, EK, EK_CHILD, GUEST_KEY, INDEX, SRK, Guest, asides, furnish, new_epoch  # noqa: E402
from device import VTPM, contains, lacks, main, same  # noqa: E402
from keyhost import running, unchanged, vtpm  # noqa: E402
from terminal import Terminal  # noqa: E402
from tpm_bytes import nv_define, nv_write  # noqa: E402


def end_of(terminal):
    same(terminal.event()[0], "job")
    return terminal.event()


def test_losses(place):
    """what a guest loses is listed before; a terminal is asked, and without one --yes is wanted"""
    furnish(place)
    shutil.copy("a.vtpm", "b.vtpm")
    listed = {"replace": ("0x%08x" % SRK, "0x%08x" % GUEST_KEY, "0x%08x" % EK_CHILD, "0x%08x" % INDEX, "come anew: 3",
                          "everything sealed"),
              "reidentify": ("persistent keys: 0x%08x\n" % EK_CHILD, "come anew: 3", "storage hierarchy", "tickets",
                             "wrong guesses", "attestation keys")}
    with unchanged("b.vtpm"), unchanged("a.vtpm"):
        for policy, pieces in listed.items():
            for args in ((policy, "b.vtpm"), ("clone", "b.vtpm", "c.vtpm", "--vm-uuid", B, "--on-clone", policy)):
                done = vtpm(place, *args, status=2, word="usage")
                contains(done.stderr, "--yes", A, *pieces)
            terminal = Terminal([VTPM, policy, "b.vtpm", "--config", place.config], place.env)
            contains(terminal.asked("Type yes: ").replace("\r", ""), *pieces)
            terminal.type(b"no\n")
            same(end_of(terminal), ("exited", 1))
            contains(terminal.shown.decode(), "left as it is")
            terminal.resume()
        lacks(vtpm(place, "reidentify", "b.vtpm", status=2).stderr, "0x%08x" % SRK, "0x%08x" % INDEX)
        same(os.path.exists("c.vtpm"), False)
    terminal = Terminal([VTPM, "reidentify", "b.vtpm", "--config", place.config], place.env)
    terminal.asked("Type yes: ")
    terminal.type(b"yes\n")
    same(end_of(terminal), ("exited", 0))
    terminal.resume()
    new_epoch(place, "b.vtpm", "reidentify", vm_uuid=A)
    done = vtpm(place, "replace", "b.vtpm", "--vm-uuid", B, "--yes")
    contains(done.stderr, "0x%08x" % SRK, "0x%08x" % INDEX)
    same(place.inspect("b.vtpm")["records"][0]["vm_uuid"], B)
    same(asides(), [])  # an explicit command was asked for


def test_owner_password(place):
    """a guest that gave its hierarchies passwords: they are told as lost, and an EK that could not be kept is told"""
    place.create("a.vtpm", "--vm-uuid", A, "--ek", "rsa2048")
    tpm = Guest(place, "a.vtpm", A)
    tpm("changeauth -c o owner")
    tpm("changeauth -c e endorsement")
    tpm("changeauth -c l lockout")
    tpm.device.term()
    done = vtpm(place, "reidentify", "a.vtpm", "--yes")
    contains(done.stderr, "hierarchies: endorsement\n", "rsa2048 is not persistent")
    own = certificates(place, "a.vtpm")["endorsement_keys"][0]
    same(own["handle"], None)
    tpm = Guest(place, "a.vtpm", A)
    same(nv_as_owner(tpm), own["certificate"])
    tpm.device.term()
    contains(vtpm(place, "replace", "a.vtpm", "--yes").stderr, "hierarchies: owner lockout\n")
    tpm = Guest(place, "a.vtpm", A)
    tpm("clear")
    tpm.device.term()


def test_guest_in_our_places(place):
    """a guest has keys and an index of its own where endorsement keys would be: its keys stay, ours are of the old kinds"""
    place.create("a.vtpm", "--vm-uuid", A, "--ek", "rsa2048")
    tpm = Guest(place, "a.vtpm", A)
    tpm("createprimary -Q -C o -g sha256 -G ecc -c srk.ctx")
    tpm("evictcontrol -Q -C o -c 0x%x" % EK)
    for handle in (EK, 0x8101000A, 0x8101001E):
        tpm("evictcontrol -Q -C o -c srk.ctx 0x%x" % handle)
    own = tpm.ek()
    tpm("nvdefine -Q -C o -s 8 0x1c0001e")  # libtpms has no RSA-4096
    tpm.device.term()
    done = vtpm(place, "reidentify", "a.vtpm", "--yes")
    contains(done.stderr, "come anew: 2\n", "rsa2048 is not persistent", "NV indices: 0x01c0001e\n")
    lacks(done.stderr, "0x81010001", "0x8101000a")
    told = certificates(place, "a.vtpm")["endorsement_keys"]
    same([(key["kind"], key["handle"]) for key in told], [("rsa2048", None)])
    tpm = Guest(place, "a.vtpm", A)
    same(tpm.ek(), own)
    same(tpm.persistent(), {EK, 0x8101000A, 0x8101001E})
    same(nv(tpm, 0x1C00002), told[0]["certificate"])
    tpm.device.term()
    done = vtpm(place, "replace", "a.vtpm", "--yes")
    contains(done.stderr, "persistent keys: 0x81010001 0x8101000a 0x8101001e\n")
    same([(key["kind"], key["handle"]) for key in certificates(place, "a.vtpm")["endorsement_keys"]],
         [("rsa2048", "0x81010001")])


def test_full_nv(place):
    """a guest has filled NV: there is room for the new endorsement keys and certificates, and nothing of its is lost"""
    place.create("a.vtpm", "--vm-uuid", A, "--ek", "rsa2048,ecc_nist_p384")
    device, _, data = running(place, "a.vtpm", "--vm-uuid", A)
    defined = 0
    while data.rc(nv_define(INDEX + defined, 2048)) == 0:
        defined += 1
    while data.rc(nv_define(INDEX + defined, 8)) == 0:
        defined += 1
    device.term()
    vtpm(place, "reidentify", "a.vtpm", "--yes")
    same([key["handle"] for key in certificates(place, "a.vtpm")["endorsement_keys"]], ["0x81010001", "0x81010016"])
    device, _, data = running(place, "a.vtpm", "--vm-uuid", A)
    data.good(nv_write(INDEX + defined - 1, bytes(8)))
    device.term()


def nv_as_owner(tpm):
    tpm("nvread -C o -P owner -o nv.der 0x1c00002")
    return openssl("x509", "-inform", "der", "-in", "nv.der").decode()


if __name__ == "__main__":
    main(globals())
