# SPDX-License-Identifier: BSD-3-Clause
"""What was seen, as JSON and on one screen; and whether the guest is content with its TPM."""
import json
import os
import platform
import shutil
import subprocess
import time

FORMAT = 1
ON, ENCRYPTED = "1", "1"  # Win32_EncryptableVolume: ProtectionStatus, ConversionStatus
TPM, NUMERICAL_PASSWORD = "1", "3"  # the same, KeyProtectorType


def _first_line(*command):
    if not shutil.which(command[0]):
        return None
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    return (done.stdout.splitlines() or [""])[0]


def _firmware():
    return _first_line("dpkg-query", "-W", "-f", "${Version}", "ovmf")


def _fact(answers, verb, *names):
    facts = answers.get(verb, {}).get("facts", {})
    return [facts.get(name, "?") for name in names]


def content(answers):
    """(what, whether it holds, what was seen) of each thing that Windows must be content with."""
    present, ready, locked, maker, specification = _fact(answers, "tpm", "TpmPresent", "TpmReady", "LockedOut", "manufacturer",
                                                         "specification")
    secure, = _fact(answers, "secureboot", "secureboot")
    there, certificates = _fact(answers, "ek", "present", "certificates")
    provider, signs = _fact(answers, "key", "provider", "signs")
    protection, conversion, protectors, pcrs = _fact(answers, "bitlocker", "protection", "conversion", "protectors", "pcrs")
    after, = _fact(answers, "bitlocker again", "protection")
    return [
        ("TPM present and ready (Get-Tpm)", (present, ready, locked) == ("True", "True", "False"),
         f"present {present}, ready {ready}, by {maker}"),
        ("TPM 2.0", specification.startswith("2.0"), specification),
        ("Secure Boot on (Confirm-SecureBootUEFI)", secure == "True", secure),
        ("endorsement key and certificate", there == "True" and certificates.isdigit() and int(certificates) > 0,
         f"{certificates} certificates"),
        ("a key in the TPM signs (under Windows Hello)", signs == "True", provider),
        ("BitLocker on, opened by the TPM", (protection, conversion) == (ON, ENCRYPTED)
         and {TPM, NUMERICAL_PASSWORD} <= set(protectors.split(",")), f"protection {protection}, key protectors {protectors}"),
        ("it is sealed to PCR 7 and 11", pcrs == "7,11", f"PCRs {pcrs}"),
        ("a restart asks for no recovery key", after == ON, f"protection {after}")]


class Report:
    def __init__(self, image, accel, program):
        self.start = time.time()
        self.stages, self.answers, self.drill, self.error, self.recovery = [], {}, [], None, None
        self.about = {"medium": {"kind": image.kind, "path": image.path, "name": image.name, "edition": image.edition,
                                 "build": image.build, "language": image.language},
                      "host": {"kernel": platform.release(), "accelerator": accel, "firmware": _firmware(),
                               "qemu": _first_line("qemu-system-x86_64", "--version"), "vtpm": _first_line(program, "--version")}}

    def stage(self, name, seconds, limit, ok, detail, screenshot=None):
        self.stages.append({"name": name, "seconds": round(seconds, 1), "limit": limit, "ok": ok, "detail": detail,
                            "screenshot": screenshot and os.path.basename(screenshot)})

    def answer(self, name, status, facts, lines):
        self.answers[name] = {"status": status, "facts": facts, "lines": lines}

    def drilled(self, what, ok, seen):
        self.drill.append((what, ok, seen))

    def findings(self):
        return (content(self.answers) if self.answers else []) + self.drill

    def passed(self):
        return self.error is None and all(ok for _, ok, _ in self.findings())

    def save(self, folder):
        """Returns the path. The recovery password is not in it."""
        path = os.path.join(folder, "report.json")
        findings = [{"what": what, "ok": bool(ok), "seen": seen} for what, ok, seen in self.findings()]
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.start)), **self.about,
                       "passed": self.passed(), "error": self.error, "findings": findings, "stages": self.stages,
                       "answers": self.answers}, file, indent=1)
            file.write("\n")
        return path

    def summary(self, title):
        lines = [f"{title}, {time.time() - self.start:.0f} s", ""]
        lines += [f"  {'ok    ' if ok else 'FAILED'}  {what:<46} {str(seen)[:70]}" for what, ok, seen in self.findings()]
        if self.error:
            lines += ["", f"  {self.error}"]
        count = sum(bool(ok) for _, ok, _ in self.findings())
        last = f"{count} as wanted, {len(self.findings()) - count} not" + (", and not finished" if self.error else "")
        return "\n".join(lines + ["", last])
