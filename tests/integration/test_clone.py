#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Another VM's TPM: the policies at a start and in vtpm clone, what each keeps and what it costs."""
import json
import os
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from certificates import certificates, hash_of, nv, openssl, verifies  # noqa: E402
from clones import A, B, EK, GUEST_KEY, INDEX, SRK, Guest, asides, furnish, new_epoch  # noqa: E402
from device import STORE_VOLATILE, VTPM, contains, lacks, main, read_file, same, true, write_file  # noqa: E402
from keyhost import add_native, add_passphrase, audit, names, running, unchanged, vtpm  # noqa: E402
from tpm_bytes import nv_define, nv_write, pcr_extend  # noqa: E402


def make_credential(tpm, ek_file, name):
    """For the attestation key under the SRK and the EK in EK_FILE."""
    tpm.load("ak")
    tpm("readpublic -Q -c ak.ctx -n ak.name")
    write_file("credential.secret", b"for one TPM only")
    done = subprocess.run(["tpm2", "makecredential", "-Q", "-T", "none", "-u", ek_file, "-G", "rsa", "-s",
                           "credential.secret", "-n", read_file("ak.name").hex(), "-o", name], capture_output=True, timeout=60,
                          check=False)
    same(done.returncode, 0, done.stderr.decode())


def start_as_b(place, policy):
    """A's file was copied with its disk; VM B starts."""
    shutil.copy("a.vtpm", "b.vtpm")
    return Guest(place, "b.vtpm", B, "--on-clone", policy)


def test_run_copy(place):
    """run --on-clone copy: all of the TPM, EK and attestation keys, told as a duplicate; the id is another"""
    ek = furnish(place)
    with unchanged("a.vtpm"):
        tpm = start_as_b(place, "copy")
        true(tpm.unseals() and tpm.has_index() and tpm.load_ek_child(), "something of A's is missing")
        same(tpm.ek(), ek)
        tpm.device.term()
    new_epoch(place, "b.vtpm", "copy")
    same(asides(), [])
    line, = audit(place, "identity-duplicated")
    same((line["outcome"], line["vtpm-id"]), ("ok", place.inspect("b.vtpm")["records"][0]["vtpm_id"]))
    contains(line["detail"], A, B)
    contains(tpm.device.log(), A, B, "copy")
    listed = {os.path.basename(v["path"]): v for v in json.loads(vtpm(place, "list", ".", "--json").stdout)}
    same(listed["b.vtpm"]["duplicate_of"], listed["a.vtpm"]["vtpm_id"])
    same(listed["b.vtpm"]["ek_hash"], listed["a.vtpm"]["ek_hash"])
    same([v["same_ek"] for v in listed.values()], [1, 1])


def test_run_reidentify(place):
    """run --on-clone reidentify: what was sealed opens, the EK is another with a valid certificate, its children die"""
    ek = furnish(place)
    tpm = start_as_b(place, "reidentify")
    true(tpm.unseals() and tpm.has_index(), "something sealed or stored is missing")
    true(tpm.ek() != ek, "the EK is A's")
    same(tpm.persistent(), {EK, SRK, GUEST_KEY})
    tpm("quote -Q -c 0x%x -l sha256:0 -m quoted -s signature" % GUEST_KEY)
    true(not tpm.load_ek_child(), "a key under the old EK loads")
    own = certificates(place, "b.vtpm")["endorsement_keys"]
    same([key["kind"] for key in own], ["rsa2048"])
    same(nv(tpm, 0x1C00002), own[0]["certificate"])
    same(hash_of(own[0]["certificate"]), own[0]["key_hash"])
    true(verifies(own[0]["certificate"], vtpm(place, "ca", "export").stdout), "the new certificate does not verify")
    contains(openssl("x509", "-noout", "-subject", data=own[0]["certificate"].encode()).decode(),
             place.inspect("b.vtpm")["records"][0]["vtpm_id"])
    tpm.ek()
    make_credential(tpm, "ek.pem", "new.cred")
    make_credential(tpm, "a-ek.pem", "old.cred")
    same(tpm.activate("new.cred"), b"for one TPM only")
    same(tpm.activate("old.cred"), None)
    tpm.device.term()
    new_epoch(place, "b.vtpm", "reidentify")
    # what it was is kept, byte for byte, and is A's still
    kept, = asides()
    true(kept in tpm.device.log(), "the log does not name " + kept)
    same(read_file(kept) == read_file("a.vtpm"), True, "the file set aside is as it was")
    tpm = Guest(place, kept, A)
    true(tpm.unseals() and tpm.load_ek_child(), "what was set aside does not work")
    tpm.device.term()
    same([line["outcome"] for line in audit(place, "reidentify")], ["ok"])


def test_run_replace(place):
    """run --on-clone replace: nothing of A's is left, and what there was is set aside"""
    ek = furnish(place)
    tpm = start_as_b(place, "replace")
    true(not tpm.unseals() and not tpm.has_index(), "something of A's is there")
    true(tpm.ek() != ek, "the EK is A's")
    same(tpm.persistent(), {EK})
    own = certificates(place, "b.vtpm")["endorsement_keys"]
    true(verifies(own[0]["certificate"], vtpm(place, "ca", "export").stdout), "the new certificate does not verify")
    tpm("createprimary -Q -C o -g sha256 -G ecc -c srk.ctx")
    tpm("evictcontrol -Q -C o -c srk.ctx 0x%x" % SRK)
    true(not tpm.unseals(), "the storage seed is A's")
    banks = tpm("getcap pcrs").decode()
    contains(banks, "sha256: [ 0")
    lacks(banks, "sha1: [ 0", "sha384: [ 0")
    tpm.device.term()
    new_epoch(place, "b.vtpm", "replace")
    same([read_file(path) == read_file("a.vtpm") for path in asides()], [True])


def test_policies(place):
    """run's --on-clone over the file's over the site's over refuse; --incoming refuses; refused changes nothing"""
    place.create("a.vtpm", "--vm-uuid", A)
    place.create("copy.vtpm", "--vm-uuid", A, "--on-clone", "copy")
    refused = ["[identity-other]", A, B, "vtpm reidentify", "vtpm replace", "vtpm bind"]
    with unchanged("a.vtpm"), unchanged("copy.vtpm"):
        place.refused(5, refused, "a.vtpm", "--vm-uuid", B)
        place.refused(5, refused, "copy.vtpm", "--vm-uuid", B, "--on-clone", "refuse")
        place.refused(5, refused, "copy.vtpm", "--vm-uuid", B, "--incoming")
        place.refused(2, ["[usage]", "--on-clone"], "a.vtpm", "--vm-uuid", B, "--on-clone", "never")
        write_file(place.hasty, "on-clone=sometimes\n", "a")
        place.refused(2, ["[usage]", "on-clone"], "a.vtpm", "--vm-uuid", B)
    write_file(place.config, "on-clone=replace\n", "a")
    for name, policy in (("a.vtpm", "replace"), ("copy.vtpm", "copy")):
        shutil.copy(name, "b.vtpm")
        device = place.start("b.vtpm", "--vm-uuid", B)
        device.powered()
        device.term()
        new_epoch(place, "b.vtpm", policy, source=name)
    device = place.start("b.vtpm", "--vm-uuid", B)  # and from now on it is B's
    device.powered()
    device.term()
    same(place.inspect("b.vtpm")["records"][0]["epoch"], 2)


def test_set_aside(place):
    """setting aside never overwrites; where it cannot be done nothing is, and the explicit command is named"""
    place.create("a.vtpm", "--vm-uuid", A)
    shutil.copy("a.vtpm", "b.vtpm")
    write_file("b.vtpm.aside-1.1", b"mine")
    device = place.start("b.vtpm", "--vm-uuid", B, "--on-clone", "replace")
    device.powered()
    device.term()
    same(read_file("b.vtpm.aside-1.1"), b"mine")
    same(read_file("b.vtpm.aside-1.1-2") == read_file("a.vtpm"), True, "set aside")
    same(os.stat("b.vtpm.aside-1.1-2").st_mode & 0o777, 0o600)
    same(os.stat("b.vtpm.aside-1.1-2").st_blocks <= 2 * os.stat("a.vtpm").st_blocks, True, "holes stay holes")
    long_name = "b" * 250
    shutil.copy("a.vtpm", long_name)
    with unchanged(long_name):
        place.refused(5, ["[identity-other]", A, B, "cannot be set aside", "vtpm reidentify STATE"], long_name, "--vm-uuid", B,
                      "--on-clone", "reidentify")
    same(sorted(name for name in os.listdir(".") if name.startswith("bbb") or name.startswith(".b")), [long_name])


def test_clone(place):
    """vtpm clone: by each policy, the source untouched; never over a file; the policies' words"""
    place.create("a.vtpm", "--vm-uuid", A)
    with unchanged("a.vtpm"):
        for policy in ("copy", "replace", "reidentify"):
            done = vtpm(place, "clone", "a.vtpm", policy, "--vm-uuid", B, "--on-clone", policy)
            new_epoch(place, policy, policy)
            contains(done.stdout, B, policy, place.inspect(policy)["records"][0]["vtpm_id"])
            with unchanged(policy):
                vtpm(place, "clone", "a.vtpm", policy, "--vm-uuid", B, "--on-clone", policy, status=3,
                     word="state-exists")
        vtpm(place, "clone", "a.vtpm", "x", "--vm-uuid", B, status=5, word="identity-other")
        vtpm(place, "clone", "a.vtpm", "x", "--vm-uuid", A, "--on-clone", "copy", status=2, word="usage")
        vtpm(place, "clone", "a.vtpm", "x", "--on-clone", "copy", status=2, word="usage")
        vtpm(place, "clone", "a.vtpm", "x", "--vm-uuid", B, "--on-clone", "refuse", status=5, word="identity-other")
        vtpm(place, "clone", "none", "x", "--vm-uuid", B, "--on-clone", "copy", status=3, word="state-missing")
        same(os.path.exists("x"), False)
    for policy in ("replace", "reidentify"):
        same([line["outcome"] for line in audit(place, policy)], ["ok"])
    contains(audit(place, "replace")[0]["detail"], A, B, "a.vtpm")
    device = place.start("reidentify", "--vm-uuid", B)
    device.powered()
    device.term()


def test_clone_running(place):
    """the source runs: its clone has the last committed generation, and the source does not notice"""
    place.create("a.vtpm", "--vm-uuid", A)
    device, _, data = running(place, "a.vtpm", "--vm-uuid", A)
    data.good(nv_define(INDEX, 8))
    data.good(nv_write(INDEX, b"\5" * 8))
    with unchanged("a.vtpm"):
        for policy in ("copy", "reidentify"):
            vtpm(place, "clone", "a.vtpm", policy, "--vm-uuid", B, "--on-clone", policy)
    vtpm(place, "replace", "a.vtpm", "--yes", status=6, word="in-use")
    vtpm(place, "bind", "a.vtpm", "--vm-uuid", B, "--yes", status=6, word="in-use")
    data.good(nv_write(INDEX, b"\6" * 8))
    device.term()
    for policy in ("copy", "reidentify"):
        device = place.start(policy, "--vm-uuid", B)
        _, data = device.powered()
        same(data.nv(INDEX), b"\5" * 8)
        device.term()


def suspend(place):
    """a.vtpm has volatile state, as of a VM that was saved and not resumed."""
    place.create("a.vtpm", "--vm-uuid", A)
    device = place.start("a.vtpm", "--vm-uuid", A)
    control, data = device.powered()
    data.good(pcr_extend(16, b"\7" * 32))
    value = data.pcr(16)
    same(control.result(STORE_VOLATILE), 0, "STORE_VOLATILE")
    device.kill()
    return value


def test_suspended(place):
    """a suspended VM: copy keeps it suspended; replace and reidentify want --discard-suspended, at run they stop"""
    value = suspend(place)
    with unchanged("a.vtpm"):
        vtpm(place, "clone", "a.vtpm", "copy", "--vm-uuid", B, "--on-clone", "copy")
        for policy in ("replace", "reidentify"):
            done = vtpm(place, "clone", "a.vtpm", policy, "--vm-uuid", B, "--on-clone", policy, status=5,
                        word="identity-other")
            contains(done.stderr, "--discard-suspended")
            vtpm(place, policy, "a.vtpm", "--vm-uuid", B, "--yes", status=5, word="identity-other")
            place.refused(5, ["[identity-other]", A, B, "--discard-suspended"], "a.vtpm", "--vm-uuid", B, "--on-clone", policy)
            same(asides("a.vtpm"), [])
            vtpm(place, "clone", "a.vtpm", policy, "--vm-uuid", B, "--on-clone", policy, "--discard-suspended")
            device = place.start(policy, "--vm-uuid", B)
            _, data = device.powered()
            same(data.pcr(16), bytes(32))
            device.term()
            shutil.copy("a.vtpm", "in-place")
            vtpm(place, policy, "in-place", "--vm-uuid", B, "--yes", "--discard-suspended")
            new_epoch(place, "in-place", policy)
    device = place.start("copy", "--vm-uuid", B)
    _, data = device.powered(start=False)
    same(data.pcr(16), value)
    device.kill()


def test_providers(place):
    """the new key is wrapped by the host's default provider and those named; what was not carried over is told"""
    add_native(place, "site")
    add_passphrase(place, "recovery")
    add_native(place, "other")
    vtpm(place, "provider", "default", "site")
    place.create("a.vtpm", "--vm-uuid", A, "--provider", "other")
    vtpm(place, "keys", "add", "a.vtpm", "--provider", "recovery")
    done = vtpm(place, "clone", "a.vtpm", "one", "--vm-uuid", B, "--on-clone", "copy")
    same(names(place, "one"), ["site"])
    contains(done.stderr, "not carried over: other, recovery")
    done = vtpm(place, "clone", "a.vtpm", "two", "--vm-uuid", B, "--on-clone", "reidentify", "--provider", "recovery",
                "--provider", "other", "--provider", "site")
    same(names(place, "two"), ["site", "recovery", "other"])
    lacks(done.stderr, "not carried over")
    vtpm(place, "clone", "a.vtpm", "x", "--vm-uuid", B, "--on-clone", "copy", "--provider", "nobody", status=4,
         word="provider-unknown")
    device = place.start("a.vtpm", "--vm-uuid", B, "--on-clone", "copy")
    device.powered()
    device.term()
    same(names(place, "a.vtpm"), ["site"])
    contains(device.log(), "other, recovery")


def test_no_provider_is_made(place):
    """a host without a default provider: neither clone nor a policy makes one"""
    add_passphrase(place, "recovery")
    place.create("a.vtpm", "--vm-uuid", A, "--provider", "recovery")
    registry = os.path.join(place.data_dir, "providers.conf")
    text = read_file(registry).decode()
    write_file(registry, "\n".join(line for line in text.splitlines() if not line.startswith("default=")) + "\n", "w")
    with unchanged("a.vtpm"), unchanged(registry):
        vtpm(place, "clone", "a.vtpm", "x", "--vm-uuid", B, "--on-clone", "copy", status=4, word="provider-unknown")
        place.refused(4, ["[provider-unknown]"], "a.vtpm", "--vm-uuid", B, "--on-clone", "copy")
        vtpm(place, "clone", "a.vtpm", "b.vtpm", "--vm-uuid", B, "--on-clone", "copy", "--provider", "recovery")
    same(names(place, "b.vtpm"), ["recovery"])


def test_killed(place):
    """SIGKILL at any time during replace and reidentify: the old file or the finished new one"""
    place.create("a.vtpm", "--vm-uuid", A)
    origin = place.inspect("a.vtpm")["records"][0]["vtpm_id"]
    seen = set()
    for step in range(24):
        shutil.copy("a.vtpm", "b.vtpm")
        policy = ("replace", "reidentify")[step % 2]
        with subprocess.Popen([VTPM, policy, "b.vtpm", "--vm-uuid", B, "--yes", "--config", place.config], env=place.env,
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                process.wait(0.002 * step)
            except subprocess.TimeoutExpired:
                process.kill()
        device = place.start("b.vtpm")
        device.powered()
        device.term()
        record = place.inspect("b.vtpm")["records"][0]
        new = record["vtpm_id"] != origin
        same((record["vm_uuid"], record["epoch"]), (B, 2) if new else (A, 1))
        place.sound("b.vtpm")
        seen.add(new)
    return "old and new seen" if len(seen) == 2 else "%s only" % ("new" if True in seen else "old")


if __name__ == "__main__":
    main(globals())
