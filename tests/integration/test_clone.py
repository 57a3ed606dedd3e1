#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Another VM's TPM: the policies at a start, vtpm clone, replace, reidentify and bind, what each keeps and loses."""
import glob
import json
import os
import shutil
import subprocess
import sys
import uuid

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (STORE_VOLATILE, VTPM, contains, lacks, main, read_file, same, true, wait_until,
                    write_file)  # noqa: E402
from keyhost import add_native, add_passphrase, audit, names, running, unchanged, vtpm  # noqa: E402
from terminal import Terminal  # noqa: E402
from test_certificates import certificates, hash_of, nv, openssl, verifies  # noqa: E402
from test_tpm2_tools import Tools  # noqa: E402
from tpm_bytes import nv_define, nv_write, pcr_extend  # noqa: E402

A, B = str(uuid.uuid4()), str(uuid.uuid4())
INDEX = 0x01500016
EK, SRK, GUEST_KEY, EK_CHILD = 0x81010001, 0x81000001, 0x81000010, 0x81000011
SECRET = b"what was sealed under the SRK"


class Guest(Tools):
    """The VM UUID's tools, on a state file of its own."""

    def __init__(self, place, state, vm_uuid, *args):
        self.state = state
        super().__init__(place, "--vm-uuid", vm_uuid, *args, create=False)

    def start(self, kind="clear"):
        self.device = self.place.start(self.state, "--data", self.data, "--startup", kind, *self.args, ctrl=self.ctrl)
        # a policy that acts takes a while, and until then the TPM answers TPM_RC_FAILURE
        wait_until(lambda: self.run("getrandom 4").returncode == 0, "the TPM answers")

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


def make_credential(tpm, ek_file, name):
    """For the attestation key under the SRK and the EK in EK_FILE."""
    tpm.load("ak")
    tpm("readpublic -Q -c ak.ctx -n ak.name")
    write_file("credential.secret", b"for one TPM only")
    done = subprocess.run(["tpm2", "makecredential", "-Q", "-T", "none", "-u", ek_file, "-G", "rsa", "-s",
                           "credential.secret", "-n", read_file("ak.name").hex(), "-o", name], capture_output=True, timeout=60,
                          check=False)
    same(done.returncode, 0, done.stderr.decode())


def asides(name="b.vtpm"):
    return sorted(glob.glob(name + ".aside-*"))


def parent(place, name):
    return place.inspect(name)["records"][0]["parent"]


def new_epoch(place, name, policy, vm_uuid=B, source="a.vtpm"):
    """One record, of a vTPM of its own that comes of SOURCE's."""
    (record,), (origin,) = place.inspect(name)["records"], place.inspect(source)["records"]
    same((record["epoch"], record["vm_uuid"]), (origin["epoch"] + 1, vm_uuid))
    true(record["vtpm_id"] != origin["vtpm_id"], "the vTPM id is the source's")
    same((record["parent"]["vtpm_id"], record["parent"]["policy"]), (origin["vtpm_id"], policy))
    place.sound(name)


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


def test_bind_mistyped(place):
    """bind with a mistyped passphrase changes nothing: the right one would not open the slot any more"""
    place.create("a.vtpm")
    vtpm(place, "provider", "create", "words", "--kind", "passphrase")
    for name in ("right", "mistyped"):
        write_file(name, name.encode())
    vtpm(place, "keys", "add", "a.vtpm", "--provider", "words", "--password-file", "right")
    with unchanged("a.vtpm"):
        vtpm(place, "bind", "a.vtpm", "--vm-uuid", A, "--password-file", "mistyped", status=4, word="wrong-passphrase")
        place.refused(4, ["wrong-passphrase"], "a.vtpm", "--vm-uuid", A, "--password-file", "mistyped")
    vtpm(place, "bind", "a.vtpm", "--vm-uuid", A, "--password-file", "right")
    vtpm(place, "keys", "drop", "a.vtpm", "--provider", "native", "--password-file", "right")
    vtpm(place, "check", "a.vtpm", "--password-file", "right")


def test_bind(place):
    """vtpm bind: the first one keeps id and slots, --drop leaves one out; another VM's becomes a copy"""
    add_native(place, "site")
    add_native(place, "gone")
    vtpm(place, "provider", "default", "site")
    place.create("a.vtpm")
    vtpm(place, "keys", "add", "a.vtpm", "--provider", "gone")
    before = place.inspect("a.vtpm")["records"][0]
    shutil.copy("a.vtpm", "b.vtpm")
    vtpm(place, "bind", "b.vtpm", "--vm-uuid", B)
    after = place.inspect("b.vtpm")["records"][0]
    same((after["vtpm_id"], after["vm_uuid"], after["epoch"], after["parent"]), (before["vtpm_id"], B, 2, None))
    same(names(place, "b.vtpm"), ["site", "gone"])
    registry = os.path.join(place.data_dir, "providers.conf")
    text = read_file(registry).decode()
    write_file(registry, text.replace("name=gone\nkind=native", "name=gone\nkind=away"), "w")
    with unchanged("a.vtpm"):
        place.refused(4, ["vtpm bind", "--drop"], "a.vtpm", "--vm-uuid", A)
        vtpm(place, "bind", "a.vtpm", "--vm-uuid", A, "--drop", "gone", "--drop", "site", status=2, word="usage")
        vtpm(place, "bind", "a.vtpm", "--vm-uuid", A, "--provider", "site", status=2, word="usage")
        vtpm(place, "bind", "a.vtpm", status=2, word="usage")
    vtpm(place, "bind", "a.vtpm", "--vm-uuid", A, "--drop", "gone")
    same(names(place, "a.vtpm"), ["site"])
    with unchanged("a.vtpm"):
        contains(vtpm(place, "bind", "a.vtpm", "--vm-uuid", A).stdout, "already")
        vtpm(place, "bind", "a.vtpm", "--vm-uuid", B, status=2, word="usage")  # nobody to ask
    shutil.copy("a.vtpm", "c.vtpm")
    contains(vtpm(place, "bind", "c.vtpm", "--vm-uuid", B, "--yes").stderr, "duplicate")
    new_epoch(place, "c.vtpm", "copy")
    same([(line["outcome"], B in line["detail"]) for line in audit(place, "bind") if line["outcome"] == "ok"],
         [("ok", True), ("ok", False)])
    true(len(audit(place, "bind")) > 2, "a bind that failed left no line")
    same(len(audit(place, "identity-duplicated")), 1)


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


def test_list(place):
    """vtpm list: whose, of which other, by what policy; sorted, filtered; what cannot be read is told"""
    os.mkdir("d")
    place.create("d/a.vtpm", "--vm-uuid", A, "--on-clone", "copy", "--ek", "ecc_nist_p256")
    place.create("d/unbound.vtpm")
    vtpm(place, "clone", "d/a.vtpm", "d/b.vtpm", "--vm-uuid", B)
    vtpm(place, "clone", "d/a.vtpm", "d/r.vtpm", "--vm-uuid", B, "--on-clone", "reidentify")
    write_file("d/other", b"nothing of ours")
    os.link("d/a.vtpm", "d/z-again.vtpm")
    same(len(json.loads(vtpm(place, "list", "d", "d/a.vtpm", "--json").stdout)), 4)
    os.remove("d/z-again.vtpm")
    every = json.loads(vtpm(place, "list", "d", "--json").stdout)
    same([os.path.basename(v["path"]) for v in every], ["a.vtpm", "b.vtpm", "r.vtpm", "unbound.vtpm"])
    a, b, r, unbound = every
    same((a["vm_uuid"], a["policy"], a["parent"], a["duplicate_of"], a["same_ek"], a["providers"]),
         (A, "copy", None, None, 1, ["native"]))
    same(a["ek_hash"], certificates(place, "d/a.vtpm")["endorsement_keys"][0]["key_hash"])
    same((b["duplicate_of"], b["ek_hash"], b["parent"]["path"]), (a["vtpm_id"], a["ek_hash"], a["path"]))
    same((r["parent"]["policy"], r["duplicate_of"], r["same_ek"]), ("reidentify", None, 0))
    true(r["ek_hash"] != a["ek_hash"], "the EK of a reidentified one is its source's")
    same((unbound["vm_uuid"], unbound["policy"], unbound["ek_hash"]), (None, None, None))
    same(a["size"], 655360)
    true(abs(a["last_use"] - os.stat("d/a.vtpm").st_mtime) < 2, "last use")

    def paths(*args):
        return [os.path.basename(v["path"])[0] for v in json.loads(vtpm(place, "list", "d", "--json", *args).stdout)]
    same(paths("--filter", "vm_uuid=" + B), ["b", "r"])
    same(paths("--filter", "vm_uuid=" + B, "--filter", "lineage=dup*"), ["b"])
    same(paths("--duplicates"), ["a", "b"])
    same(paths("--reverse"), ["u", "r", "b", "a"])
    same(paths("--sort", "vm_uuid")[0], "u")
    for number, name in enumerate(("unbound", "b", "r", "a")):
        os.utime("d/%s.vtpm" % name, (0, 1000000000 + number))
    same(paths("--sort", "last_use"), ["u", "b", "r", "a"])
    same(json.loads(vtpm(place, "list", "d/r.vtpm", "--json").stdout)[0]["last_use"], 1000000002)
    same(paths("--filter", "provider=nat*", "--filter", "policy=copy"), ["a", "b", "r"])
    same(paths("--filter", "path=*/*", "--filter", "ek_hash="), ["u"])
    largest = max(every, key=lambda v: v["allocated_size"])["allocated_size"]
    same([v["allocated_size"] for v in json.loads(vtpm(place, "list", "d", "--json", "--sort", "size").stdout)][-1], largest)
    same(paths("--sort", "lineage", "--filter", "vm_uuid=?*"), ["a", "b", "r"])
    table = vtpm(place, "list", "d").stdout
    contains(table, A, "duplicate of " + a["vtpm_id"][:8], "reidentify of " + a["vtpm_id"][:8], a["ek_hash"][:12])
    same(len(table.splitlines()), 5)
    vtpm(place, "list", "d", "--sort", "colour", status=2, word="usage")
    vtpm(place, "list", "d", "--filter", "colour=red", status=2, word="usage")
    vtpm(place, "list", "nowhere", status=2, word="usage")
    vtpm(place, "list", status=2, word="usage")
    write_file(place.config, "state-dirs=%s;\n" % os.path.abspath("d"), "a")
    same(len(vtpm(place, "list").stdout.splitlines()), 5)
    with open("d/r.vtpm", "r+b") as file:
        for offset in (20, 65536 + 20):
            file.seek(offset)
            file.write(b"\377" * 40)
    done = vtpm(place, "list", "d", status=1)
    contains(done.stderr, "d/r.vtpm", "neither")
    same(len(done.stdout.splitlines()), 4)


def test_list_many(place):
    """10,000 state files are listed in a second of this machine, in order"""
    place.create("a.vtpm", "--ek", "rsa2048,ecc_nist_p384")
    header = read_file("a.vtpm")[:16384].rstrip(b"\0")
    for folder in range(100):
        os.makedirs("d/%02d" % folder)
        for number in range(100):
            with open("d/%02d/%02d.vtpm" % (folder, number), "wb") as file:
                file.write(header)
                file.truncate(655360)
    with open("listed", "wb") as out:
        args = [VTPM, "list", "d", "--config", place.config]
        child = os.posix_spawn(VTPM, args, place.env, file_actions=[(os.POSIX_SPAWN_DUP2, out.fileno(), 1)])
        _, status, usage = os.wait4(child, 0)
    same(status, 0, "vtpm list")
    lines = read_file("listed").decode().splitlines()[1:]
    same(len(lines), 10000)
    paths = [line.split()[-1] for line in lines]
    same(paths, sorted(paths))
    same({line.split()[3] for line in lines}, {"9999"})
    took = usage.ru_utime + usage.ru_stime  # not the time that others had the processor
    true(took < 1, "%.2f s" % took)
    return "%.2f s" % took


if __name__ == "__main__":
    main(globals())
