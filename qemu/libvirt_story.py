# SPDX-License-Identifier: BSD-3-Clause
"""What a domain goes through under libvirt, as steps on one domain: few boots, many sentences.

  Emulator, External   how a domain comes to its TPM: by libvirt's swtpm command lines, or served beside it
  Story                a life with the host's key provider; what was saved of it is searched for plaintext
  SecretStory          a life under a libvirt secret
"""
import hashlib
import json
import os
import pwd
import select
import shutil
import socket
import subprocess
import sys
import threading
import uuid

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)
from canary import Canary  # noqa: E402
from libvirt import Domain  # noqa: E402
from scenario import parse_pcrs, require  # noqa: E402
from tpms import certificates, die_with_parent  # noqa: E402

VTPM = os.path.abspath(os.environ.get("VTPM", "./vtpm"))
PLAINSTATE = os.path.abspath(os.environ.get("VTPM_PLAINSTATE", "./tests/plainstate"))
STATE, MARKS = "tpm2-00.permall", [".vtpm-provisioned", "vtpm-provisioned"]
ENVELOPE = b"vtpm-env"  # docs/state-format.md: how a state blob begins
GONE = ("domain is not running", "Domain not found")  # what libvirtd says of a QEMU whose words it did not read
# The policies of all endorsement keys in the world, which the guest's programs know too (TCG EK Credential Profile 2.5,
# PolicyA with SHA-256, PolicyB with SHA-384), and the byte that follows in a public area
POLICIES = [bytes.fromhex(text) for text in (
    "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa00",
    "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e1200")]


def command(host, *args, status=0, user=None):
    """A command of ours, by default as the user whom libvirt's swtpm is: the key providers are his."""
    owner = pwd.getpwnam(user or host.user)
    done = subprocess.run(args, env=host.environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
                          check=False, user=owner.pw_uid, group=owner.pw_gid, extra_groups=[])
    require(done.returncode == status, f"{' '.join(args)} ended with {done.returncode}: {done.stderr.decode()}")
    return done.stdout


def vtpm(host, *args, **options):
    return command(host, VTPM, *args, **options)


def record(host, path):
    return json.loads(vtpm(host, "inspect", "--json", path))["records"][0]


def read_file(path):
    with open(path, "rb") as file:
        return file.read()


def same(got, wanted, what=""):
    require(got == wanted, f"{what and what + ': '}got {got!r}, wanted {wanted!r}")


class Activated:
    """What vtpm@.socket does where systemd runs: it listens at PATH, and starts the program when somebody connects."""

    def __init__(self, path, line, host):
        self.line, self.host, self.statuses = line, host, []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(8)
        self.listener.set_inheritable(True)
        self.stopped, self.stop_end = socket.socketpair()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while self.stopped not in select.select([self.listener, self.stopped], [], [])[0]:
            number = self.listener.fileno()
            with subprocess.Popen([*self.line, "--ctrl", f"fd:{number}"], env=self.host.environment(),
                                  pass_fds=(number,), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  preexec_fn=die_with_parent, user=self.host.user, group=self.host.user, extra_groups=[]) as process:
                ended = os.pidfd_open(process.pid)
                if self.stopped in select.select([ended, self.stopped], [], [])[0]:
                    process.kill()
                os.close(ended)
            self.statuses.append(process.returncode)

    def end(self):
        self.stop_end.send(b"x")
        self.thread.join(20)
        self.listener.close()


class Emulator:
    """<backend type='emulator'>: libvirt makes, starts and removes the TPM."""
    template, removes = "libvirt-emulator.xml", True

    def __init__(self, host, cache, name):
        self.host, self.tpm = host, ""
        self.domain = Domain(host, name, cache, template=self.template)
        self.state = os.path.join(host.tpm_folder(self.domain), STATE)

    def define(self):
        self.domain.define(self.tpm)

    def banks(self, names):
        self.tpm = "<active_pcr_banks>" + "".join(f"<{name}/>" for name in names) + "</active_pcr_banks>"
        self.define()

    def lock(self, number, value):
        del value
        self.tpm = f"<encryption secret='{number}'/>"
        self.define()

    def unlock_with(self, number, value):
        self.host.set_secret(number, value)

    def log(self):
        return self.host.tpm_log(self.domain)

    def end(self):
        self.domain.__exit__(None, None, None)


class External(Emulator):
    """<backend type='external'>: vtpm run behind a socket that stands all the time; the host's administrator made the
    TPM and keeps it."""
    template, removes = "libvirt-external.xml", False

    def __init__(self, host, cache, name):
        super().__init__(host, cache, name)
        self.folder = os.path.join(host.folder, name)
        os.mkdir(self.folder)
        shutil.chown(self.folder, host.user)
        self.state = os.path.join(self.folder, name + ".vtpm")
        self.password = os.path.join(self.folder, "password")
        self.service = None

    def _serve(self, *args):
        config = self.host.environment()["VTPM_CONFIG"]
        line = [VTPM, "run", self.state, "--vm-uuid", self.domain.uuid, "--terminate", "--config", config,
                "--log", os.path.join(self.folder, "log"), *args]
        self.service = Activated(os.path.join(self.host.folder, self.domain.name + ".tpm"), line, self.host)

    def banks(self, names):
        """libvirt has no word on the banks of an external TPM: they are the administrator's."""
        if self.service:
            command(self.host, os.path.join(self.host.programs, "swtpm_setup"), "--tpm2", "--tpm-state",
                    "file://" + self.state, "--vmid", f"{self.domain.name}:{self.domain.uuid}", "--pcr-banks",
                    ",".join(names), "--reconfigure")
            return
        vtpm(self.host, "create", self.state, "--vm-uuid", self.domain.uuid, "--pcr-banks", ",".join(names))
        self._serve()

    def lock(self, number, value):
        vtpm(self.host, "provider", "create", "secret", "--kind", "passphrase")
        self.unlock_with(number, value)
        vtpm(self.host, "create", self.state, "--vm-uuid", self.domain.uuid, "--provider", "secret",
             "--password-file", self.password)
        self._serve("--password-file", self.password)

    def unlock_with(self, number, value):
        with open(self.password, "wb") as file:
            file.write(value)

    def log(self):
        return read_file(os.path.join(self.folder, "log")).decode()

    def end(self):
        super().end()
        if self.service:
            self.service.end()


class Story:
    """Each step returns what was seen, or raises. The second boot never touches the secret before its memory has been
    saved, so that what stands in the images is not there by right."""
    label = "life"

    def __init__(self, host, cache, backend):
        self.host = host
        self.back = backend(host, cache, f"{self.label}-{backend.__name__.lower()}")
        self.domain = self.back.domain
        self.secret = os.urandom(24)
        self.images, self.drawn = [], []
        self.known = self.plain = self.before = None

    steps = [("define and start with two PCR banks; the guest uses its TPM; shutdown", "first"),
             ("its state is sealed, and of this VM alone", "sealed"),
             ("undefine --keep-tpm, define, start with other active_pcr_banks", "keep"),
             ("managedsave and start", "managed"),
             ("save, undefine, restore", "save"),
             ("an internal snapshot, and reverts to it while the domain runs and while it is off", "snapshot"),
             ("none of the TPM's plaintext in what was saved, nor elsewhere", "search"),
             ("what was sealed before all that opens; reset; it opens again", "reset"),
             ("shutdown; a start tells what it cannot find; undefine", "leave")]

    def unseals(self):
        same(self.domain.ask("unseal")[0].split()[0], hashlib.sha256(self.secret).hexdigest())

    def first(self):
        self.back.banks(["sha256", "sha384"])
        self.domain.start()
        same(self.domain.ask("model"), ["tpm_crb"])
        same(self.domain.banks(), ["sha256", "sha384"])
        require(bytes.fromhex("".join(self.domain.ask("ekcert")))[:1] == b"\x30", "an endorsement certificate")
        self.domain.ask("seal", self.secret.hex())
        self.unseals()
        self.domain.power_off()

    def sealed(self):
        self.known = record(self.host, self.back.state)
        same((self.known["vm_uuid"], self.known["awaits_incoming"], len(self.known["key_slots"])),
             (self.domain.uuid, False, 1))
        config = self.host.environment()["VTPM_CONFIG"]
        self.plain = command(self.host, PLAINSTATE, "--config", config, self.back.state)
        require(self.secret in self.plain, "the library's plaintext has the secret")

    def keep(self):
        self.host.virsh("undefine", self.domain.name, "--keep-tpm")
        same(record(self.host, self.back.state)["vtpm_id"], self.known["vtpm_id"])
        self.back.define()
        self.back.banks(["sha1", "sha256"])
        self.domain.start()
        same(self.domain.banks(), ["sha1", "sha256"])
        self.domain.ask("extend", "16", "ab" * 32)
        self.before = parse_pcrs(self.domain.ask("pcrs"))
        self.drawn.append(self.domain.ask("getrandom"))

    def goes_on(self):
        """With the same TPM, which draws nothing twice."""
        self.domain.connect()
        same(parse_pcrs(self.domain.ask("pcrs")), self.before)
        self.drawn.append(self.domain.ask("getrandom"))
        require(self.drawn[-1] not in self.drawn[:-1], "random numbers came twice")

    def keep_image(self, path):
        name = os.path.join(self.host.folder, f"{self.domain.name}-{len(self.images)}.image")
        os.link(path, name)
        self.images.append(name)

    def managed(self):
        self.domain.hang_up()
        self.host.virsh("managedsave", self.domain.name)
        self.keep_image(os.path.join(self.host.place("/var/lib/libvirt"), "qemu", "save", self.domain.name + ".save"))
        self.host.virsh("start", self.domain.name)
        self.goes_on()

    def save(self):
        self.domain.hang_up()
        path = os.path.join(self.host.folder, "saved")
        self.host.virsh("save", self.domain.name, path)
        self.keep_image(path)
        self.host.virsh("undefine", self.domain.name)
        same(os.path.exists(self.back.state), not self.back.removes, "the state is there after undefine")
        self.host.virsh("restore", path)
        os.unlink(path)
        self.goes_on()
        now = record(self.host, self.back.state)
        same((now["vtpm_id"], now["awaits_incoming"]), (self.known["vtpm_id"], False))

    def snapshot(self):
        self.back.define()  # what was restored would be gone with its end
        self.host.virsh("snapshot-create-as", self.domain.name, "first")
        self.domain.ask("extend", "16", "ef" * 32)
        require(parse_pcrs(self.domain.ask("pcrs")) != self.before, "the PCR moved")
        self.host.virsh("snapshot-revert", self.domain.name, "first")
        self.goes_on()
        self.domain.ask("extend", "16", "ef" * 32)
        self.host.virsh("destroy", self.domain.name)
        self.host.virsh("snapshot-revert", self.domain.name, "first")
        self.goes_on()
        self.images.append(os.path.join(self.host.folder, self.domain.name + ".qcow2"))

    def search(self):
        canary = Canary(self.plain, self.secret, self.secret.hex().encode())
        told = vtpm(self.host, "inspect", "--certificates", "--json", self.back.state)
        for public in certificates(told) + POLICIES:
            canary.leave_out(public)
        require(len(canary.windows) > 500, f"only {len(canary.windows)} windows are looked for")
        for image in self.images:
            require(ENVELOPE in read_file(image), f"{image} holds the TPM's state")
        _, size, found = canary.search(self.host.folder)
        same(sorted({os.path.relpath(path, self.host.folder) for path, _ in found}), [], "plaintext stands in")
        return f"{len(canary.windows)} windows in {len(self.images)} images, {size >> 20} MiB in all"

    def reset(self):
        self.unseals()
        self.host.virsh("reset", self.domain.name)
        self.domain.wait_ready()
        self.unseals()

    def leave(self):
        self.domain.power_off()
        same(record(self.host, self.back.state)["vtpm_id"], self.known["vtpm_id"])
        os.rename(self.back.state, self.back.state + ".elsewhere")
        done = self.host.virsh("start", self.domain.name, check=False)
        same(done.returncode, 1)
        require("[state-missing]" in self.back.log(), "the TPM's log tells: " + self.back.log()[-500:])
        require(not os.path.exists(self.back.state), "a blank TPM took its place")
        os.rename(self.back.state + ".elsewhere", self.back.state)
        self.host.virsh("start", self.domain.name, "--paused")
        self.host.virsh("destroy", self.domain.name)
        self.host.virsh("undefine", self.domain.name, "--snapshots-metadata")
        if self.back.removes:
            require(not os.path.exists(self.host.tpm_folder(self.domain)), "the TPM is gone with its domain")
        else:
            same(record(self.host, self.back.state)["vtpm_id"], self.known["vtpm_id"])

    def end(self):
        self.back.end()
        for image in self.images:
            os.unlink(image)


class SecretStory(Story):
    """A TPM that opens with the owner's secret alone, and what libvirt says where it is another."""
    label = "secret"

    def __init__(self, host, cache, backend):
        super().__init__(host, cache, backend)
        self.word = uuid.uuid4().hex.encode()
        self.number = None

    steps = [("define and start; the guest seals", "first"),
             ("managedsave; start tells a wrong secret, and goes on with the right one", "managed"),
             ("save; restore tells a wrong secret, and goes on with the right one", "save"),
             ("shutdown; a wrong secret is told by virsh start, and changes nothing; the right one starts it", "wrong_start"),
             ("undefine", "leave")]

    def first(self):
        self.number = self.host.secret(self.word, f"vtpm of {self.domain.name}")
        self.back.lock(self.number, self.word)
        self.domain.start()
        self.domain.ask("seal", self.secret.hex())
        self.known = record(self.host, self.back.state)
        same([slot["key_id"] for slot in self.known["key_slots"]], ["passphrase"])
        require(self.word not in read_file(self.back.state), "the secret is not in the file")

    def refused(self, *args):
        """With a wrong secret, in QEMU's words. A libvirtd that is slow may find QEMU gone before it reads what that said."""
        self.back.unlock_with(self.number, b"another word")
        said = GONE[0]
        for _ in range(3):
            if any(words in said for words in GONE):
                told = len(self.back.log())
                done = self.host.virsh(*args, check=False)
                said = done.stderr
                same(done.returncode, 1, said)
                require("[wrong-passphrase]" in self.back.log()[told:], "the log tells: " + self.back.log()[-500:])
        require("0x21 decryption error" in said, said)
        self.back.unlock_with(self.number, self.word)

    def wrong_start(self):
        self.back.define()  # what was restored is gone with its end
        self.domain.power_off()
        before = read_file(self.back.state)
        self.refused("start", self.domain.name)
        require(read_file(self.back.state) == before, "the state is as it was")
        self.host.virsh("start", self.domain.name, "--paused")
        self.host.virsh("destroy", self.domain.name)

    def managed(self):
        self.domain.hang_up()
        self.host.virsh("managedsave", self.domain.name)
        self.refused("start", self.domain.name)
        self.host.virsh("start", self.domain.name)
        self.domain.connect()
        self.unseals()

    def save(self):
        path = os.path.join(self.host.folder, "saved")
        self.domain.hang_up()
        self.host.virsh("save", self.domain.name, path)
        self.host.virsh("undefine", self.domain.name)
        self.refused("restore", path)
        self.host.virsh("restore", path)
        self.domain.connect()
        self.unseals()
        same(record(self.host, self.back.state)["vtpm_id"], self.known["vtpm_id"])

    def leave(self):
        same(record(self.host, self.back.state)["vtpm_id"], self.known["vtpm_id"])
        self.host.virsh("undefine", self.domain.name)
        same(os.path.exists(self.back.state), not self.back.removes, "the state is there after undefine")
