# SPDX-License-Identifier: BSD-3-Clause
"""A VM is copied with its disk, firmware variables and state file; the copy starts by each of the identity policies.

The guest has no disk: what it would write to one, an object sealed under its SRK and to PCR 7 and two attestation keys,
the host keeps for it.
"""
import hashlib
import os
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from guest import Guest  # noqa: E402
from scenario import Boots, require  # noqa: E402

ECC_CERTIFICATE = "0x01c00016"
SRK_CHILD, EK_CHILD = "0x81000101", "0x81000102"  # see init


def read_bytes(path):
    with open(path, "rb") as file:
        return file.read()


class Clones(Boots):
    def __init__(self, folder, cache, tpm, progress):
        super().__init__(folder, cache, tpm, "tpm-crb", progress)
        self.disk = self.keys = self.credential = None

    def steps(self):
        return [("VM A seals under its SRK and to PCR 7", self.furnish),
                ("VM A: its certificates verify", self.certificate),
                ("VM A: attestation keys under SRK and endorsement key, a credential", self.attest),
                ("VM A: orderly power off", self.power_off),
                ("refuse: VM B does not start, nothing is changed", self.refuse),
                ("copy: VM B unseals and has A's endorsement key", self.copy),
                ("reidentify: what goes and what stays shared is listed before", self.losses),
                ("reidentify: VM B unseals and has another endorsement key, certified", self.reidentify),
                ("replace: VM B does not unseal and has another endorsement key, certified", self.replace),
                ("VM A starts and unseals after all of that", self.again)]

    def _ek(self):
        return self.guest.ask("ek")[0].split()[0]

    def _unseals(self):
        status, lines = self.guest.ask("unwrap", *self.disk, may_fail=True)
        return status == 0 and lines[0].split()[0] == hashlib.sha256(self.secret).hexdigest()

    def furnish(self):
        self._start("vm-a")
        self.guest.boot()
        self.disk = self.guest.ask("wrap", self.secret.hex())
        self.key = self._ek()
        require(len(self.disk) == 2 and self._unseals(), "what was sealed does not come back")
        return "32 random bytes; the sealed object is kept for the guest"

    def attest(self):
        lines = self.guest.ask("aks")
        require(len(lines) == 4, "the guest made no two keys: " + " / ".join(lines))
        self.keys = {"srk": lines[:2], "ek": lines[2:]}
        self._check_keys(srk=True, ek=True)
        self.credential = self._make_credential()
        require(self._activates(self.credential), "its credential does not activate")
        return "both load and are persistent, the credential activates"

    def _check_keys(self, **loads):
        for parent, wanted in loads.items():
            status, lines = self.guest.ask("loadak", parent, *self.keys[parent], may_fail=True)
            require((status == 0) == wanted, f"key under the {parent}: status {status}, " + " / ".join(lines))

    def _make_credential(self):
        """Of the secret, for the endorsement key and the attestation key under the SRK."""
        self._check_keys(srk=True)
        return self.guest.ask("credential", self.secret.hex())[-1]

    def _activates(self, credential):
        status, lines = self.guest.ask("activate", credential, may_fail=True)
        return status == 0 and lines[-1].split()[0] == hashlib.sha256(self.secret).hexdigest()

    def certificate(self):
        """Those of both endorsement keys."""
        subject, other = self._verified(), self._verified(ECC_CERTIFICATE)
        require(subject == other, f"two names in one TPM: {subject}, {other}")
        return subject

    def _verified(self, *index):
        """The guest's own tools read it; openssl compares it with what the host's authority is."""
        leaf, chain = (os.path.join(self.folder, name) for name in ("leaf.der", "chain.pem"))
        with open(leaf, "wb") as file:
            file.write(bytes.fromhex("".join(self.guest.ask("ekcert", *index))))
        with open(chain, "wb") as file:
            file.write(self.guest.tpm.authority())
        subprocess.run(["openssl", "x509", "-inform", "der", "-in", leaf, "-out", leaf + ".pem"], check=True, timeout=60)
        done = subprocess.run(["openssl", "verify", "-CAfile", chain, leaf + ".pem"], capture_output=True, text=True,
                              timeout=60, check=False)
        require(done.returncode == 0, "openssl verify: " + done.stderr)
        subject = subprocess.run(["openssl", "x509", "-in", leaf + ".pem", "-noout", "-subject"], capture_output=True,
                                 text=True, timeout=60, check=True).stdout.strip()
        return subject

    def _copied(self, policy):
        """Guest B, whose files are copies of A's."""
        folder = os.path.join(self.folder, policy)
        os.mkdir(folder)
        shutil.copy(os.path.join(self.folder, "ovmf-vars.qcow2"), folder)
        return Guest(folder, self.cache, self.tpm.copied(folder, policy), "vm-b", model=self.model,
                     progress=self.progress)

    def _boot_copied(self, policy):
        before = read_bytes(self.tpm.state)
        self.guest = self._copied(policy).__enter__()
        self.guest.boot()
        require(read_bytes(self.tpm.state) == before, "A's state file was changed")

    def refuse(self):
        guest = self._copied("refuse")
        with open(os.path.join(guest.folder, "error"), "wb") as errors:
            done = subprocess.run(guest.tpm.command("ctrl.sock", "-", False), cwd=guest.folder,
                                  env=guest.tpm.environment, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                                  timeout=60, check=False)
        text = read_bytes(os.path.join(guest.folder, "error")).decode()
        require(done.returncode == 5 and "[identity-other]" in text, f"exit {done.returncode}: {text}")
        require(self.tpm.vm_uuid in text and guest.tpm.vm_uuid in text, "it does not name both VMs: " + text)
        require(read_bytes(guest.tpm.state) == read_bytes(self.tpm.state), "the file was changed")
        return "exit 5, both VMs named"

    def _own_certificate(self):
        subject = self.certificate()
        require(subject.rsplit(" ", 1)[-1] in self.guest.tpm.inspect(), "the certificate names another vTPM: " + subject)
        require(self._ek() != self.key, "its endorsement key is A's")
        return subject

    def copy(self):
        self._boot_copied("copy")
        require(self._unseals(), "it does not unseal")
        require(self._ek() == self.key, "its endorsement key is not A's")
        self._check_keys(srk=True, ek=True)
        require(self._activates(self.credential), "A's credential does not activate")
        self.power_off()
        return "all 32 bytes equal, public key " + self.key[:16] + "..."

    def losses(self):
        """Before anything is done: the list names the key that goes, not the one that stays, and what stays shared."""
        text = self.tpm.losses("reidentify")
        lost, shared = (text.split("sharing with", 1) + [""])[:2]
        require(EK_CHILD in lost and SRK_CHILD not in text, "which attestation key is lost: " + text)
        require("attestation keys" in shared, "what stays shared: " + text)
        return EK_CHILD + " is lost; attestation keys under the SRK stay shared"

    def reidentify(self):
        self._boot_copied("reidentify")
        require(self._unseals(), "it does not unseal")
        subject = self._own_certificate()
        self._check_keys(srk=True, ek=False)
        require(self._activates(self._make_credential()), "a credential for its own endorsement key does not activate")
        require(not self._activates(self.credential), "A's credential activates")
        self.power_off()
        return "all 32 bytes equal, " + subject

    def replace(self):
        self._boot_copied("replace")
        require(not self._unseals(), "it unseals")
        subject = self._own_certificate()
        self._check_keys(srk=False, ek=False)
        self.power_off()
        return subject

    def again(self):
        self._start("vm-a-again")
        self.guest.boot()
        require(self._unseals() and self._ek() == self.key, "it lost something")
        self.power_off()
        return "the same secret, the same endorsement key"
