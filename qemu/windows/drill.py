# SPDX-License-Identifier: BSD-3-Clause
"""The clone drill: copies of the VM (disk, firmware variables, state file) start under each identity policy."""
import json
import os
import shutil
import subprocess
import time

from machine import Machine, Prompt, make_disk
from tpms import GuestError

RECOVERY_AFTER = 3  # times as long as an ordinary start: who has not answered by then waits for the recovery key


class Drill:
    """SOURCE: a machine that is off, with BitLocker on; ORDINARY: the seconds that its start takes."""

    def __init__(self, source, endorsement, recovery, ordinary, report):
        self.source, self.endorsement, self.recovery = source, endorsement, recovery
        self.ordinary, self.report = ordinary, report

    def clone(self, policy):
        """A machine whose files are copies of the source's."""
        folder = os.path.join(self.source.folder, policy)
        os.mkdir(folder, 0o700)
        shutil.copy(self.source.variables, folder)
        disk = os.path.join(folder, "disk.qcow2")
        make_disk(disk, None, backing=self.source.disk)
        return Machine(folder, self.source.tpm.copied(folder, policy), policy, self.source.kind, disk, virtio=self.source.virtio)

    def _endorsement(self, machine):
        status, facts, lines = machine.ask("ek")
        if status != 0 or "hash" not in facts:
            raise GuestError("the guest tells no endorsement key: " + " / ".join(lines))
        return facts["hash"]

    def _protected(self, machine):
        status, facts, _ = machine.ask("bitlocker")
        return status == 0 and facts.get("protection") == "1"

    def _duplicates(self, machine):
        """How many other TPMs have the source's endorsement key, as the host knows it."""
        tpm = machine.tpm
        done = subprocess.run([tpm.program, "list", self.source.folder, machine.folder, "--json"], env=tpm.environment,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise GuestError("vtpm list: " + done.stderr.strip())
        return next(entry for entry in json.loads(done.stdout) if os.path.samefile(entry["path"], tpm.state))["duplicate_of"]

    def _opens(self, machine, limit, what):
        if machine.ready(limit) != "ready":
            raise GuestError(f"{what}: it asks for the recovery key")

    def copy(self, machine, limit):
        self._opens(machine, limit, "copy")
        self.report.drilled("copy: opens, and its endorsement key is a duplicate",
                            self._protected(machine) and self._endorsement(machine) == self.endorsement and self._duplicates(machine),
                            f"vtpm list: duplicate of {self._duplicates(machine)}")

    def reidentify(self, machine, limit):
        self._opens(machine, limit, "reidentify")
        other = self._endorsement(machine)
        self.report.drilled("reidentify: opens without the recovery key",
                            self._protected(machine) and other != self.endorsement and not self._duplicates(machine),
                            f"endorsement key {other[:16]}..., was {self.endorsement[:16]}...")

    @staticmethod
    def _waits(machine, seconds):
        """Whether it asks for the recovery key, or says nothing for so long that it must."""
        try:
            return machine.ready(seconds) == "recovery"
        except Prompt:
            return True

    def replace(self, machine, limit):
        """Windows says nothing while it waits for the recovery key: who types it and is let in knows what was asked."""
        wait = min(limit / 3, max(self.ordinary * RECOVERY_AFTER, 60))
        end = time.monotonic() + limit
        asked = self._waits(machine, wait)
        if asked:
            machine.screenshot(os.path.join(machine.folder, "recovery"))
        closed = asked
        while closed:
            if time.monotonic() > end:
                raise Prompt(f"replace: the recovery key was typed and opened nothing within {limit:.0f} s")
            machine.type(self.recovery.replace("-", "") + "\n")
            closed = self._waits(machine, wait)
        other = self._endorsement(machine)
        self.report.drilled("replace: asks for the recovery key, which opens", asked and other != self.endorsement,
                            "it was typed at the prompt" if asked else "it opened without")
