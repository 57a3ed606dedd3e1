# SPDX-License-Identifier: BSD-3-Clause
"""The TPM process of a test guest: vtpm, or stock swtpm to prove the tests themselves.

Everything stands below one folder of the caller's; the host's own places are never touched.
"""
import ctypes
import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import time
import uuid

START_LIMIT = 60
END_LIMIT = 60
_libc = ctypes.CDLL(None, use_errno=True)


PLATFORM_CERTIFICATE = bytes.fromhex("0080c001")  # its NV index, as the record has it


def certificates(told):
    """What a state file has in the clear by design, of what `vtpm inspect --certificates --json` TOLD: each certificate with
    what stands before it in the record (docs/state-format.md, public part). The end of that may be the end of the length
    which stands before it in NV memory, as with a platform's of 0x301 bytes."""
    told = json.loads(told)
    found = [(key["kind"].encode(), key["certificate"]) for key in told["endorsement_keys"]]
    found.append((PLATFORM_CERTIFICATE, told["platform_certificate"]))
    return [before + ssl.PEM_cert_to_DER_cert(pem) for before, pem in found if pem]


class GuestError(Exception):
    """Something that a boot needs did not happen; the message says what."""


def die_with_parent():
    """For preexec_fn: nothing that the tests start outlives them, even where they are killed."""
    pr_set_pdeathsig = 1
    _libc.prctl(pr_set_pdeathsig, signal.SIGKILL)


def last_lines(path, count=25):
    try:
        with open(path, "rb") as file:
            text = file.read()[-16384:].decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return text.replace("\r", "").splitlines()[-count:]


def log_paths(folder, label):
    """Where a TPM process writes its log and its standard error."""
    return tuple(os.path.join(folder, f"{label}-tpm.{kind}") for kind in ("log", "err"))


def listens(path):
    """Whether a unix socket bound to just PATH listens. Connecting would use up the one client it takes."""
    accepts = 0x10000
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as table:
        for line in table.readlines()[1:]:
            field = line.split()
            if len(field) == 8 and field[7] == path and int(field[3], 16) & accepts:
                return True
    return False


class Vtpm:
    """A state file and how vtpm serves it. VTPM and VTPM_PLAINSTATE name the programs under test."""
    name = "vtpm"
    seals = True

    def __init__(self, folder, *options):
        self.options = options  # of vtpm create
        self.program = os.path.abspath(os.environ.get("VTPM", "./vtpm"))
        self.plainstate = os.path.abspath(os.environ.get("VTPM_PLAINSTATE", "./tests/plainstate"))
        self.state = os.path.join(folder, "guest.vtpm")
        self.config = os.path.join(folder, "vtpm.conf")
        self.data = os.path.join(folder, "data")
        self.vm_uuid = str(uuid.uuid4())
        self.on_clone = None
        self.environment = dict(os.environ, VTPM_DATA_DIR=self.data)
        # should a path ever be taken from elsewhere, it is below our folder too
        for name in ("CONFIG", "DATA", "STATE", "CACHE"):
            self.environment[f"XDG_{name}_HOME"] = os.path.join(folder, "xdg")
        self.environment["XDG_RUNTIME_DIR"] = os.path.join(folder, "xdg")

    def missing(self):
        for path in (self.program, self.plainstate):
            if not os.access(path, os.X_OK):
                return f"{path} is not there"
        return None

    def _run(self, *arguments):
        done = subprocess.run(arguments, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=120, check=False)
        if done.returncode != 0:
            raise GuestError(f"{' '.join(arguments)}: exit {done.returncode}: "
                             + done.stderr.decode("utf-8", "replace").strip())
        return done.stdout

    def create(self):
        os.makedirs(self.data, mode=0o700)
        with open(self.config, "x", encoding="utf-8"):
            pass
        self._run(self.program, "create", self.state, "--vm-uuid", self.vm_uuid, "--config", self.config,
                  *self.options)

    def command(self, ctrl, log, incoming):
        line = [self.program, "run", self.state, "--vm-uuid", self.vm_uuid, "--ctrl", f"unix:{ctrl}",
                "--manage", "none", "--terminate", "--config", self.config, "--log", log]
        line += ["--on-clone", self.on_clone] if self.on_clone else []
        return line + ["--incoming"] if incoming else line

    def copied(self, folder, on_clone):
        """For another VM of the same host, whose state file is a copy of this one, put into FOLDER."""
        other = Vtpm(folder)
        other.config, other.data, other.environment = self.config, self.data, self.environment
        other.on_clone = on_clone
        shutil.copy(self.state, other.state)
        return other

    def losses(self, policy):
        """What vtpm lists before it does POLICY to the state file, which it does not here: nobody says yes."""
        done = subprocess.run([self.program, policy, self.state, "--vm-uuid", self.vm_uuid, "--config", self.config],
                              env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=120, check=False)
        if done.returncode != 2 or "--yes" not in done.stderr:
            raise GuestError(f"vtpm {policy} did not ask: exit {done.returncode}: {done.stderr}")
        return done.stderr

    def authority(self):
        """What a verifier of its certificates trusts, PEM."""
        return self._run(self.program, "ca", "export", "--config", self.config)

    def inspect(self):
        return self._run(self.program, "inspect", self.state).decode("utf-8", "replace")

    def public(self):
        return certificates(self._run(self.program, "inspect", "--certificates", "--json", self.state))

    def plaintext(self):
        """The library's permanent state in the clear, as the provider in VTPM_DATA_DIR opens it."""
        return self._run(self.plainstate, self.state)


class Swtpm:
    """Stock swtpm. Its state file is plaintext, so that a search of it must find something; what it
    hands to QEMU is encrypted, so that a search of a snapshot must not."""
    name = "swtpm"
    seals = False

    def __init__(self, folder, *_):
        self.state = os.path.join(folder, "swtpm")
        self.key = os.path.join(folder, "migration.key")
        self.environment = dict(os.environ)

    def missing(self):
        return None if shutil.which("swtpm") else "swtpm is not installed"

    def create(self):
        os.makedirs(self.state, mode=0o700)
        with open(self.key, "x", encoding="utf-8") as file:
            file.write(secrets.token_hex(32) + "\n")

    def command(self, ctrl, log, incoming):
        del incoming  # 0.7 has no such option; it takes state whenever it comes
        return ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.state}", "--ctrl", f"type=unixio,path={ctrl}",
                "--migration-key", f"file={self.key},format=hex,mode=aes-256-cbc", "--terminate",
                "--log", f"file={log},level=1"]

    def inspect(self):
        return f"swtpm state in {self.state}\n"

    def public(self):
        return []

    def plaintext(self):
        with open(os.path.join(self.state, "tpm2-00.permall"), "rb") as file:
            return file.read()


class TpmProcess:
    """One run of a TPM's process, from before QEMU connects until it has ended by itself."""

    def __init__(self, tpm, folder, label, incoming=False):
        self.log, self.errors = log_paths(folder, label)
        # relative to the folder: a long TMPDIR must not overrun the 108 bytes of a socket's path
        self.ctrl = f"tpm-{secrets.token_hex(4)}.sock"
        with open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(tpm.command(self.ctrl, self.log, incoming), cwd=folder,
                                            env=tpm.environment, stdin=subprocess.DEVNULL, stdout=errors,
                                            stderr=errors, preexec_fn=die_with_parent)
        try:
            self._wait_until_it_listens(tpm)
        except BaseException:
            self.kill()
            raise

    def _wait_until_it_listens(self, tpm):
        end = time.monotonic() + START_LIMIT
        while not listens(self.ctrl):
            if self.process.poll() is not None:
                raise GuestError(f"{tpm.name} ended with status {self.process.returncode} before it listened: "
                                 + " / ".join(last_lines(self.errors, 5)))
            if time.monotonic() > end:
                raise GuestError(f"{tpm.name} does not listen after {START_LIMIT} s")
            time.sleep(0.01)

    def wait(self):
        """Waits for the orderly end that QEMU's CMD_SHUTDOWN brings."""
        try:
            status = self.process.wait(END_LIMIT)
        except subprocess.TimeoutExpired:
            raise GuestError(f"the TPM process goes on {END_LIMIT} s after QEMU has ended") from None
        if status != 0:
            raise GuestError(f"the TPM process ended with status {status}: " + " / ".join(last_lines(self.errors, 5)))

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
