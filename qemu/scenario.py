# SPDX-License-Identifier: BSD-3-Clause
"""What the demo and the guest test show, as named steps. A step returns one line on what was seen, or raises.

  Boots      two boots of one vTPM: measured boot, a sealed secret, power off, unsealed again
  Snapshots  reset, savevm, loadvm and migration to a file of a guest that uses its TPM
  Secrecy    a search of everything written for the secret and for the library's plaintext state
"""
import hashlib
import os
import re
import secrets
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from canary import Canary, self_test  # noqa: E402
from guest import Guest, GuestError  # noqa: E402

MEASURED = (0, 1, 2, 3, 4, 5, 6, 7, 9)
MIGRATION_FILE = "migration.bin"


def require(condition, text):
    if not condition:
        raise GuestError(text)


def parse_pcrs(lines):
    """{(bank, index): value} from the output of tpm2_pcrread or the last part of tpm2_eventlog."""
    values = {}
    bank = None
    for line in lines:
        head = re.fullmatch(r"\s+(sha\d+):\s*", line)
        value = re.fullmatch(r"\s+(\d+)\s*: 0x([0-9A-Fa-f]+)", line)
        if head:
            bank = head.group(1)
        elif value:
            values[bank, int(value.group(1))] = value.group(2).lower()
    return values


def pcrs(guest):
    return parse_pcrs(guest.ask("pcrs"))


def compare_event_log(guest):
    """The firmware's log, replayed, must give the live PCRs in each bank that it names. PCR 10 (IMA's) is not in it."""
    lines = guest.ask("eventlog")
    replayed, live = parse_pcrs(lines), pcrs(guest)
    events = int(re.fullmatch(r"events: (\d+)", lines[0]).group(1))
    for index in MEASURED:
        value = replayed.get(("sha256", index))
        require(value and value.strip("0"), f"the event log has nothing for PCR {index}")
    for (bank, index), value in sorted(replayed.items()):
        if any(name == bank for name, _ in live):
            require(live[bank, index] == value, f"PCR {index} ({bank}) is {live[bank, index]}, its log says {value}")
    return live, f"{events} events replay to the live PCRs 0 to 7 and 9"


class Boots:
    """Two boots of one vTPM. The TPM's process ends between them and starts anew."""

    def __init__(self, folder, cache, tpm, model, progress):
        self.folder, self.cache, self.tpm, self.model, self.progress = folder, cache, tpm, model, progress
        self.secret = secrets.token_bytes(32)
        self.guest = None
        self.key = self.pcr7 = None

    def steps(self):
        return [("boot 1: a measured boot reaches the TPM", self.boot),
                ("boot 1: the event log equals the PCRs", self.first_log),
                ("boot 1: an endorsement key is created", self.create_key),
                ("boot 1: a secret is sealed to PCR 7", self.seal),
                ("boot 1: orderly power off", self.power_off),
                ("boot 2: the same TPM, started anew", self.boot),
                ("boot 2: the event log equals the PCRs", self.second_log),
                ("boot 2: the endorsement key is the same", self.compare_key),
                ("boot 2: the secret is unsealed", self.unseal),
                ("boot 2: another PCR 7 unseals nothing", self.refuse),
                ("boot 2: orderly power off", self.power_off)]

    def boot(self):
        self._start("boot-1" if self.pcr7 is None else "boot-2")
        self.guest.boot()
        driver = self.guest.ask("model")[0]
        require(driver.replace("_", "-") == self.model, f"the guest's driver is {driver}, not {self.model}")
        return f"OVMF and kernel started, driver {driver}"

    def _start(self, label, **options):
        # left in power_off() or close(): the steps in between share it
        self.guest = Guest(self.folder, self.cache, self.tpm, label, model=self.model, progress=self.progress,
                           **options).__enter__()

    def first_log(self):
        live, text = compare_event_log(self.guest)
        self.pcr7 = live["sha256", 7]
        return text

    def second_log(self):
        live, text = compare_event_log(self.guest)
        require(live["sha256", 7] == self.pcr7, "PCR 7 differs from the first boot")
        return text

    def create_key(self):
        self.key = self.guest.ask("ek")[0].split()[0]
        return f"RSA 2048, public key {self.key[:16]}..."

    def compare_key(self):
        key = self.guest.ask("ek")[0].split()[0]
        require(key == self.key, f"its public key was {self.key}, is {key}")
        return f"public key {key[:16]}... again"

    def seal(self):
        self.guest.ask("seal", self.secret.hex())
        digest = self.guest.ask("unseal")[0].split()[0]
        require(digest == hashlib.sha256(self.secret).hexdigest(), "what was sealed does not come back")
        return "32 random bytes, kept in the TPM: the guest has no disk"

    def unseal(self):
        digest = self.guest.ask("unseal")[0].split()[0]
        require(digest == hashlib.sha256(self.secret).hexdigest(), "something else came out")
        return "all 32 bytes equal"

    def refuse(self):
        self.guest.ask("extend", "7", hashlib.sha256(b"something else booted").hexdigest())
        status, lines = self.guest.ask("unseal", may_fail=True)
        require(status != 0, "the TPM unsealed although PCR 7 has another value")
        require(any("policy" in line.lower() for line in lines), "refused, but not by policy: " + " / ".join(lines))
        return "TPM_RC_POLICY_FAIL after an extend"

    def power_off(self):
        self.guest.power_off()
        self.close()
        return "QEMU and the TPM process ended by themselves, status 0"

    def close(self, error=None):
        if self.guest:
            guest, self.guest = self.guest, None
            guest.__exit__(type(error) if error else None, error, None)


class Snapshots(Boots):
    """One guest that never sees the secret, so that its memory in a snapshot cannot hold it either."""

    def __init__(self, folder, cache, tpm, progress):
        super().__init__(folder, cache, tpm, "tpm-crb", progress)
        self.file = os.path.join(folder, MIGRATION_FILE)
        self.booted = self.saved = self.drawn = None

    def steps(self):
        return [("another boot", self.boot),
                ("system_reset: the TPM starts over and works", self.reset),
                ("savevm", self.save),
                ("loadvm brings the PCRs back", self.load),
                ("no random numbers twice after loadvm", self.draw),
                ("migration to a file", self.migrate_out),
                ("migration from the file keeps the PCRs", self.migrate_in),
                ("orderly power off after the migration", self.power_off)]

    def boot(self):
        self._start("snapshot-source", reboots=True)
        self.guest.boot()
        self.booted, text = compare_event_log(self.guest)
        return text

    def _works(self):
        """Commands that draw, read and change: the TPM serves the guest."""
        self.guest.ask("getrandom")
        before = pcrs(self.guest)["sha256", 23]
        self.guest.ask("extend", "23", secrets.token_hex(32))
        after = pcrs(self.guest)["sha256", 23]
        require(before != after, "an extend leaves PCR 23 as it was")

    def reset(self):
        self._works()
        self.guest.reset()
        self.guest.boot()
        live, text = compare_event_log(self.guest)
        require(live["sha256", 23] == "0" * 64, "PCR 23 was not reset")
        for index in (0, 2, 3, 7):
            require(live["sha256", index] == self.booted["sha256", index], f"PCR {index} differs after the reset")
        self._works()
        return text

    def save(self):
        self.saved = pcrs(self.guest)
        require(self.saved["sha256", 23] != "0" * 64, "PCR 23 should hold something by now")
        self.guest.qmp.human("savevm first")
        self.drawn = self.guest.ask("getrandom")
        self._works()
        require(pcrs(self.guest) != self.saved, "PCR 23 should differ by now")
        return "into the qcow2 of the firmware's variables; the guest went on and extended PCR 23"

    def load(self):
        self.guest.qmp.human("loadvm first")
        # the guest is back at the moment of savevm, so is what it has read of the serial line
        self.guest.buffer = b""
        require(pcrs(self.guest) == self.saved, "the PCRs are not those of savevm")
        return "all banks as at savevm"

    def draw(self):
        require(self.guest.ask("getrandom") != self.drawn, "the TPM draws the same bytes again after a restore")
        return "16 bytes drawn after savevm and after loadvm differ"

    def migrate_out(self):
        self._works()
        self.saved = pcrs(self.guest)
        qmp = self.guest.qmp
        qmp.command("migrate", uri=f"exec:cat >{MIGRATION_FILE}")
        qmp.wait_for_status("query-migrate", "completed", failed=("failed", "cancelled"))
        self.guest.quit()
        self.close()
        return f"{os.path.getsize(self.file) >> 20} MiB"

    def migrate_in(self):
        self._start("snapshot-target", incoming=MIGRATION_FILE)
        self.guest.qmp.wait_for_status("query-status", "running", failed=("internal-error", "guest-panicked"))
        require(pcrs(self.guest) == self.saved, "the PCRs are not those of the source")
        self._works()
        return "all banks as at the source; extend and getrandom work"


class Secrecy:
    """Searches every file below FOLDER (state file, logs, firmware variables, snapshots, key store), once the TPM's
    process has ended."""

    def __init__(self, folder, tpm, secret):
        self.folder, self.tpm, self.secret = folder, tpm, secret
        self.canary = None

    def steps(self):
        return [("the search finds planted pieces", self.plant),
                ("the library's plaintext holds the secret", self.open),
                ("none of it in anything written", self.search)]

    def plant(self):
        return f"{self_test(self.folder)} pieces planted in turn and found"

    def open(self):
        plain = self.tpm.plaintext()
        require(self.secret in plain, "the plaintext does not hold the sealed secret: a search would prove nothing")
        self.canary = Canary(plain, self.secret, self.secret.hex().encode())
        for public in self.tpm.public():
            self.canary.leave_out(public)
        return f"{len(plain)} bytes of it, {len(self.canary.windows)} windows of 16"

    def search(self):
        files, total, hits = self.canary.search(self.folder)
        paths = {os.path.relpath(path, self.folder) for path, _ in hits}
        if not self.tpm.seals:
            own = {path for path in paths if path.startswith("swtpm/")}
            require(own, "the plaintext state file of the stock TPM was not found: the search is broken")
            paths -= own
        require(not paths, "plaintext stands in " + ", ".join(sorted(paths)))
        found = "nothing found" if self.tpm.seals else "found in the stock TPM's own file, as it must be, only"
        return f"{files} files, {total / 1e6:.1f} MB: {found}"


def run_steps(part, report):
    """Runs the steps of PART in order and tells REPORT (name, ok, detail) of each. After a failure none is reached."""
    failed = None
    try:
        for name, step in part.steps():
            if failed:
                report(name, False, f"not reached: '{failed}' failed")
                continue
            try:
                detail = step()
            except (GuestError, OSError, subprocess.SubprocessError, AssertionError, LookupError) as error:
                failed = name
                if isinstance(part, Boots):
                    part.close(error)
                report(name, False, str(error))
            else:
                report(name, True, detail)
    finally:
        if isinstance(part, Boots):
            part.close()
    return failed is None
