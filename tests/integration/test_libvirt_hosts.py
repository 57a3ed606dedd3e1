#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The real libvirt, from one place to another: a domain that comes from Debian's swtpm and goes back, one that is copied
by hand, live migration between two hosts with storage of their own and with storage that they share.

Environment: see libvirt_host.py.
"""
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)
from device import Skip, contains, main, read_file, same, true, write_file  # noqa: E402
from libvirt_host import LIBEXEC, cache, domain, host, lv, start_theirs  # noqa: E402
from libvirt_story import MARKS, STATE, record, vtpm  # noqa: E402
from canary import Canary  # noqa: E402
from scenario import parse_pcrs  # noqa: E402
from swtpm import COMPAT, debian  # noqa: E402

SECRET = os.urandom(24).hex()
DIGEST = hashlib.sha256(bytes.fromhex(SECRET)).hexdigest()


def unseals(one):
    same(one.ask("unseal")[0].split()[0], DIGEST)


def state_of(one):
    return os.path.join(one.libvirt.tpm_folder(one), STATE)


def test_switch(place):
    """a domain of Debian's swtpm comes over, with what it has sealed, and goes back, with what it has sealed since; saved
    on swtpm it goes on with us; to a snapshot made on swtpm it is reverted there"""
    swtpm = os.path.dirname(debian())
    with domain("switch") as one:
        host().use(swtpm)
        start_theirs(one)
        one.ask("seal", SECRET)
        one.power_off()
        theirs = read_file(state_of(one))
        host().use(COMPAT)
        one.start()
        unseals(one)
        one.power_off()
        same(record(host(), state_of(one))["vm_uuid"], one.uuid)
        folder = host().tpm_folder(one)
        kept = [name for name in os.listdir(folder) if name.startswith(STATE + ".")]
        same([read_file(os.path.join(folder, name)) for name in kept], [theirs])
        host().use(swtpm)
        ours = read_file(state_of(one))
        done = host().virsh("start", one.name, check=False)
        same(done.returncode, 1, "Debian's swtpm on our state fails")
        true(read_file(state_of(one)) == ours, "and changes nothing")
        vtpm(host(), "export", "--swtpm", "--plaintext", "--all", host().states, user="root")
        start_theirs(one)
        unseals(one)
        one.ask("extend", "16", "ab" * 32)
        before = parse_pcrs(one.ask("pcrs"))
        one.hang_up()
        host().virsh("snapshot-create-as", one.name, "on-swtpm")
        found = plaintext_of_swtpm(one)
        host().use(COMPAT)
        host().virsh("start", one.name)
        one.connect()
        same(parse_pcrs(one.ask("pcrs")), before, "saved on swtpm, it goes on with us")
        unseals(one)
        same(record(host(), state_of(one))["vm_uuid"], one.uuid)
        reverts_to_swtpm(one, swtpm, before)
    return f"{found} pieces of plaintext in what libvirt saved of Debian's swtpm"


def plaintext_of_swtpm(one):
    """The search that finds nothing of ours finds what Debian's swtpm leaves in a saved domain."""
    canary = Canary(read_file(state_of(one)))
    host().virsh("managedsave", one.name)
    image = os.path.join(host().place("/var/lib/libvirt"), "qemu", "save", one.name + ".save")
    found = canary.search_file(image)
    true(len(found) > 500, "only %d pieces were found" % len(found))
    return len(found)


def reverts_to_swtpm(one, swtpm, before):
    """To a snapshot that has swtpm's blobs in it: not on our TPM, which stays as it is. Back on swtpm it is reverted, and
    comes over again."""
    one.power_off()
    ours = read_file(state_of(one))
    same(host().virsh("snapshot-revert", one.name, "on-swtpm", check=False).returncode, 1)
    contains(host().tpm_log(one), "[blob-mismatch]")
    true(read_file(state_of(one)) == ours, "and nothing was changed")
    vtpm(host(), "export", "--swtpm", "--plaintext", "--all", host().states, user="root")
    host().use(swtpm)
    if host().virsh("snapshot-revert", one.name, "on-swtpm", check=False).returncode:  # as in start_theirs()
        host().virsh("snapshot-revert", one.name, "on-swtpm")
    host().virsh("managedsave", one.name)
    host().use(COMPAT)
    host().virsh("start", one.name)
    one.connect()
    same(parse_pcrs(one.ask("pcrs")), before, "as the snapshot has it")
    unseals(one)


def test_saved_with_a_secret(place):
    """a domain with a secret that was saved on Debian's swtpm goes on with us, and starts cold later"""
    del place
    number = host().secret(os.urandom(16).hex().encode(), "saved on swtpm")
    with domain("saved", f"<encryption secret='{number}'/>") as one:
        host().use(os.path.dirname(debian()))
        start_theirs(one)
        one.ask("seal", SECRET)
        one.hang_up()
        host().virsh("managedsave", one.name)
        host().use(COMPAT)
        host().virsh("start", one.name)
        one.connect()
        unseals(one)
        same([slot["provider_name"] for slot in record(host(), state_of(one))["key_slots"]], ["swtpm-passphrase"])
        one.hang_up()
        host().virsh("destroy", one.name)
        host().virsh("start", one.name, "--paused")


def test_copied(place):
    """the folder of one domain's TPM, copied for another, is told as such; with a policy it starts"""
    with domain("first") as one, domain("second") as two:
        host().virsh("start", one.name, "--paused")
        host().virsh("destroy", one.name)
        shutil.copytree(os.path.dirname(host().tpm_folder(one)), os.path.dirname(host().tpm_folder(two)))
        for name in ("", *MARKS, STATE):
            shutil.chown(os.path.join(host().tpm_folder(two), name), host().user, host().user)
        before = read_file(state_of(two))
        done = host().virsh("start", two.name, "--paused", check=False)
        same(done.returncode, 1)
        contains(done.stderr, "CMD_INIT: 0xd")
        contains(host().tpm_log(two), "[identity-other]", one.uuid, two.uuid)
        true(read_file(state_of(two)) == before, "nothing was changed")
        vtpm(host(), "reidentify", "--yes", "--vm-uuid", two.uuid, state_of(two))
        host().virsh("start", two.name, "--paused")
        same(record(host(), state_of(two))["vm_uuid"], two.uuid)
        same(record(host(), state_of(one))["vm_uuid"], one.uuid)


def migrate(one, other):
    """The domain goes on at OTHER, where it was."""
    one.ask("extend", "16", "ab" * 32)
    before = parse_pcrs(one.ask("pcrs"))
    drawn = one.ask("getrandom")
    one.hang_up()
    source = one.libvirt
    # the QEMU that ends takes the socket of its serial line away
    line = os.path.join(host().folder, f"{one.name}-{other.name}.serial")
    path = os.path.join(host().folder, "there.xml")
    write_file(path, source.virsh("dumpxml", "--migratable", one.name).stdout.replace(one.line, line), "w")
    source.virsh("migrate", "--live", "--unsafe", "--persistent", "--undefinesource", "--xml", path,
                 "--persistent-xml", path, one.name, other.uri, "--migrateuri", "unix://" + os.path.join(host().folder, "migration.sock"))
    one.libvirt, one.line = other, line
    one.connect()
    same(parse_pcrs(one.ask("pcrs")), before)
    true(one.ask("getrandom") != drawn, "random numbers came twice")
    unseals(one)
    same(source.virsh("domstate", one.name, check=False).returncode, 1, "it is not at the source any more")


@contextlib.contextmanager
def another(name, programs=COMPAT, **options):
    """One more libvirtd on this machine, with the same key providers."""
    at = lv.Libvirt(programs, LIBEXEC, name=name, **options)
    try:
        at.start(cache())
        yield at
    finally:
        at.end()


def test_migrate(place):
    """live migration there and back, each host with storage of its own: the TPM goes along, with a secret and without;
    no TPM stays behind"""
    word = os.urandom(16).hex().encode()
    with another("vtpm-there", other=host()) as there:
        for secret in (False, True):
            number = host().secret(word, "vtpm that moves") if secret else None
            with domain("moves-%d" % secret, f"<encryption secret='{number}'/>" if secret else "") as one:
                one.start()
                one.ask("seal", SECRET)
                known = record(host(), state_of(one))["vtpm_id"]
                here = state_of(one)
                if secret:
                    there.secret(word, "vtpm that moves", number)
                migrate(one, there)
                same(record(there, state_of(one))["vtpm_id"], known)
                true(not os.path.exists(here), "the source's state went with its domain")
                migrate(one, host())
                one.power_off()
                same(record(host(), here)["vtpm_id"], known)


def test_migrate_from_swtpm(place):
    """live migration from a host with Debian's swtpm to one with vtpm: the TPM comes along and is sealed from then on"""
    del place
    with another("vtpm-before", programs=os.path.dirname(debian()), other=host()) as before:
        with domain("comes", on=before) as one:
            start_theirs(one)
            one.ask("seal", SECRET)
            migrate(one, host())
            same(record(host(), state_of(one))["vm_uuid"], one.uuid)
            one.power_off()
            true(bytes.fromhex(SECRET) not in read_file(state_of(one)), "it is sealed")


def library(place):
    path = os.path.join(place.folder, "nfs_like.so")
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", path, os.path.join(HERE, "nfs_like.c")], check=True)
    except FileNotFoundError:
        raise Skip("there is no compiler to build nfs_like.c") from None
    return path


def test_migrate_shared(place):
    """live migration there and back of a domain whose TPM is on storage that both hosts share: one file, which one of
    them holds at a time"""
    preload = library(place)
    os.chmod(place.folder, 0o755)
    states = os.path.join(place.folder, "states")
    os.mkdir(states, 0o711)
    with another("vtpm-here", other=host(), states=states, preload=preload) as here, \
            another("vtpm-there", other=host(), states=states, preload=preload) as there:
        with domain("shared", on=here) as one:
            one.start()
            one.ask("seal", SECRET)
            number = os.stat(state_of(one)).st_ino
            known = record(here, state_of(one))["vtpm_id"]
            for target in (there, here):
                migrate(one, target)
                same(os.stat(state_of(one)).st_ino, number, "it is the same file")
            one.power_off()
            same(record(here, state_of(one))["vtpm_id"], known)
            here.virsh("start", one.name, "--paused")


if __name__ == "__main__":
    main(globals())
