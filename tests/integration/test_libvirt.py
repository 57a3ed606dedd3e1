#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The real libvirt and a guest: domains on our TPM by the swtpm command lines, once with an external backend, and one
that comes from Debian's swtpm and goes back.

Environment: VTPM names the program under test; the swtpm programs and helpers stand beside it. VTPM_TEST_CACHE: kernel
and initramfs. VTPM_TEST_GUEST=skip skips every test by name.
"""
import atexit
import contextlib
import hashlib
import json
import os
import subprocess
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "..", "..", "qemu"))
import guest  # noqa: E402
import libvirt as lv  # noqa: E402
from device import VTPM, Skip, contains, die_with_parent, lacks, main, read_file, same, true, wait_until  # noqa: E402
from swtpm import COMPAT, MARK, STATE, debian  # noqa: E402

SECRET = os.urandom(24).hex()
DIGEST = hashlib.sha256(bytes.fromhex(SECRET)).hexdigest()
shared = {}


def host():
    """One libvirtd for all tests: its first answer takes seconds."""
    if os.environ.get("VTPM_TEST_GUEST") == "skip":
        raise Skip("VTPM_TEST_GUEST=skip")
    if "why" not in shared:
        shared["why"] = lv.missing() or guest.missing()
        if not shared["why"]:
            try:
                shared["cache"] = guest.prepare()
            except guest.GuestError as problem:
                shared["why"] = str(problem)
    if shared["why"]:
        raise Skip(shared["why"])
    if "host" not in shared:
        shared["host"] = lv.Libvirt(COMPAT, os.environ.get("VTPM_LIBEXEC_DIR", os.path.dirname(VTPM)))
        atexit.register(shared["host"].end)
        shared["host"].start()
    return shared["host"]


@contextlib.contextmanager
def domain(name, *args, **options):
    host().use(COMPAT)
    with lv.Domain(host(), name, shared["cache"], *args, **options) as one:
        try:
            yield one
        except Exception:
            with contextlib.suppress(OSError):
                print("# --- the TPM's log\n# " + host().tpm_log(one).replace("\n", "\n# "))
            raise


def vtpm(*args, status=0):
    env = {**os.environ, "VTPM_DATA_DIR": host().data_dir}
    done = subprocess.run([VTPM, *args], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          check=False)
    same(done.returncode, status, done.stdout + done.stderr)
    return done


def record(one):
    return json.loads(vtpm("inspect", "--json", os.path.join(host().tpm_folder(one), STATE)).stdout)["records"][0]


def unseals(one):
    same(one.ask("unseal")[0].split()[0], DIGEST)


def test_life(place):
    """define, start, the guest seals, shutdown, start again, unseal, reset; the state is sealed and of this VM"""
    with domain("life") as one:
        one.start()
        same(one.ask("model"), ["tpm_crb"])
        one.ask("seal", SECRET)
        true(one.ask("ekcert"), "an endorsement certificate")
        one.power_off()
        known = record(one)
        same((known["vm_uuid"], known["awaits_incoming"], len(known["key_slots"])), (one.uuid, False, 1))
        lacks(read_file(os.path.join(host().tpm_folder(one), STATE)), bytes.fromhex(SECRET))
        one.start()
        unseals(one)
        host().virsh("reset", one.name)
        one.wait_ready()
        unseals(one)
        host().virsh("destroy", one.name)
        one.start()
        unseals(one)


def test_saved(place):
    """managedsave and start, save and restore: the guest goes on with its TPM; a restore after the domain was undefined
    brings the TPM along"""
    with domain("saved") as one:
        one.start()
        one.ask("seal", SECRET)
        one.ask("extend", "16", "ab" * 32)
        before = one.ask("pcrs")
        one.hang_up()
        host().virsh("managedsave", one.name)
        host().virsh("start", one.name)
        one.connect()
        same(one.ask("pcrs"), before)
        unseals(one)
        one.hang_up()
        path = os.path.join(host().folder, "saved.image")
        host().virsh("save", one.name, path)
        lacks(read_file(path), b"ChipAuth")
        vtpm_id = record(one)["vtpm_id"]
        host().virsh("undefine", one.name)
        true(not os.path.exists(host().tpm_folder(one)), "undefine took the TPM away")
        host().virsh("restore", path)
        one.connect()
        same(one.ask("pcrs"), before)
        unseals(one)
        same((record(one)["vtpm_id"], record(one)["awaits_incoming"]), (vtpm_id, False))
        one.hang_up()


def test_snapshot(place):
    """an internal snapshot of the running guest and a revert to it: the TPM is as it was then"""
    with domain("snap") as one:
        one.start()
        one.ask("extend", "16", "cd" * 32)
        before = one.ask("pcrs")
        host().virsh("snapshot-create-as", one.name, "first")
        one.ask("extend", "16", "ef" * 32)
        true(one.ask("pcrs") != before, "the PCR moved")
        host().virsh("snapshot-revert", one.name, "first")
        one.connect()
        same(one.ask("pcrs"), before)
        one.power_off()
        host().virsh("snapshot-revert", one.name, "first")
        one.connect()
        same(one.ask("pcrs"), before)
        one.hang_up()


def test_banks(place):
    """active_pcr_banks: at the first start, and changed for a domain that has a TPM; what was sealed stays"""
    with domain("banks", "<active_pcr_banks><sha256/><sha384/></active_pcr_banks>") as one:
        one.start()
        same(one.banks(), ["sha256", "sha384"])
        one.ask("seal", SECRET)
        one.power_off()
        one.define("<active_pcr_banks><sha1/><sha256/></active_pcr_banks>")
        one.start()
        same(one.banks(), ["sha1", "sha256"])
        unseals(one)


def test_secret(place):
    """a libvirt secret: the domain starts with it alone; with a wrong one virsh start tells, in words, and all is kept"""
    word = os.urandom(16).hex().encode()
    number = host().secret(word, "vtpm of a test")
    with domain("secret", f"<encryption secret='{number}'/>") as one:
        one.start()
        one.ask("seal", SECRET)
        one.power_off()
        same([slot["key_id"] for slot in record(one)["key_slots"]], ["passphrase"])
        before = read_file(os.path.join(host().tpm_folder(one), STATE))
        lacks(before, word)
        host().set_secret(number, b"another word")
        done = host().virsh("start", one.name, check=False)
        same(done.returncode, 1, done.stderr)
        contains(done.stderr, "0x21")
        contains(host().tpm_log(one), "[wrong-passphrase]")
        same(read_file(os.path.join(host().tpm_folder(one), STATE)), before)
        host().set_secret(number, word)
        one.start()
        unseals(one)


def test_undefine(place):
    """undefine takes the TPM away, undefine --keep-tpm leaves it to a domain of the same UUID"""
    with domain("gone") as one:
        one.start()
        one.ask("seal", SECRET)
        one.power_off()
        host().virsh("undefine", one.name, "--keep-tpm")
        true(os.path.exists(os.path.join(host().tpm_folder(one), MARK)), "it is kept")
        one.define()
        one.start()
        unseals(one)
        one.power_off()
        host().virsh("undefine", one.name)
        true(not os.path.exists(host().tpm_folder(one)), "it is gone")


def test_lost_state(place):
    """a state file that is gone is told by virsh start, and no blank TPM takes its place"""
    with domain("lost") as one:
        one.start()
        one.power_off()
        folder = host().tpm_folder(one)
        os.rename(os.path.join(folder, STATE), os.path.join(host().folder, "elsewhere"))
        done = host().virsh("start", one.name, check=False)
        same(done.returncode, 1)
        contains(host().tpm_log(one), "[state-missing]")
        same(os.listdir(folder), [MARK])
        os.rename(os.path.join(host().folder, "elsewhere"), os.path.join(folder, STATE))
        one.start()


def test_external(place):
    """backend type='external': vtpm run beside libvirt; start, seal, shutdown, start, unseal, managedsave"""
    with domain("external", template="libvirt-external.xml") as one:
        state = os.path.join(host().folder, "external.vtpm")
        path = os.path.join(host().folder, one.name + ".tpm")
        config = os.path.join(host().folder, "vtpm.conf")
        vtpm("create", state, "--vm-uuid", one.uuid, "--config", config)
        env = {**os.environ, "VTPM_DATA_DIR": host().data_dir}

        def serve(*args):
            process = subprocess.Popen([VTPM, "run", state, "--vm-uuid", one.uuid, "--ctrl", "unix:" + path, "--terminate",
                                        "--config", config, "--log", os.path.join(host().folder, "external.log"), *args],
                                       env=env, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
            place.processes.append(process)
            wait_until(lambda: os.path.exists(path), "it listens")
            return process
        served = serve()
        one.start()
        one.ask("seal", SECRET)
        one.power_off()
        same(served.wait(20), 0)
        served = serve()
        one.start()
        unseals(one)
        before = one.ask("pcrs")
        one.hang_up()
        host().virsh("managedsave", one.name)
        same(served.wait(20), 0)
        served = serve()
        host().virsh("start", one.name)
        one.connect()
        same(one.ask("pcrs"), before)
        one.power_off()
        same(served.wait(20), 0)


def test_switch(place):
    """a domain of Debian's swtpm comes over, with what it has sealed, and goes back, with what it has sealed since"""
    swtpm = os.path.dirname(debian())
    with domain("switch") as one:
        host().use(swtpm)
        one.start()
        one.ask("seal", SECRET)
        one.power_off()
        theirs = read_file(os.path.join(host().tpm_folder(one), STATE))
        host().use(COMPAT)
        one.start()
        unseals(one)
        one.power_off()
        same(record(one)["vm_uuid"], one.uuid)
        folder = host().tpm_folder(one)
        kept = [name for name in os.listdir(folder) if name.startswith(STATE + ".")]
        same([read_file(os.path.join(folder, name)) for name in kept], [theirs])
        host().use(swtpm)
        done = host().virsh("start", one.name, check=False)
        same(done.returncode, 1, "Debian's swtpm on our state fails")
        same(record(one)["vm_uuid"], one.uuid, "and changes nothing")
        vtpm("export", "--swtpm", "--plaintext", "--all", os.path.dirname(folder))  # others have secrets
        one.start()
        unseals(one)
        one.ask("extend", "16", "ab" * 32)
        one.power_off()
        host().use(COMPAT)
        one.start()
        unseals(one)


if __name__ == "__main__":
    main(globals())
