#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""TAP: a guest with measured boot uses its TPM over two boots, a reset, snapshots and a migration to a file; a copy of it
starts by each of the policies.

Environment: VTPM and VTPM_PLAINSTATE name the programs under test (default ./vtpm, ./tests/plainstate),
VTPM_TEST_CACHE the folder for kernel and initramfs (default ./guest-cache). VTPM_TEST_GUEST=skip skips every
test by name. VTPM_GUEST_TPM=swtpm runs the tests against stock swtpm, to tell a fault of vtpm from one of theirs.
"""
import os
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "qemu"))
from clones import Clones  # noqa: E402
from guest import GuestError, Workplace, missing, prepare  # noqa: E402
from scenario import Boots, Secrecy, Snapshots, run_steps  # noqa: E402
from tpms import Swtpm, Vtpm  # noqa: E402


class Tap:
    def __init__(self):
        self.count = self.failed = 0

    def say(self, text):
        print("# " + text.replace("\n", "\n# "), flush=True)

    def report(self, name, ok, detail):
        self.count += 1
        self.failed += not ok
        print(f"{'ok' if ok else 'not ok'} {self.count} - {name}", flush=True)
        self.say(detail)

    def skip(self, name, reason):
        self.count += 1
        print(f"ok {self.count} - {name} # SKIP {reason}", flush=True)


def make_parts(folder, cache, make_tpm, tap):
    """(prefix, maker of the part) in order. The snapshots use the vTPM of the tpm-crb boots, secret inside."""
    crb, tis, clones = (os.path.join(folder, name) for name in ("crb", "tis", "clones"))
    for path in (crb, tis, clones):
        os.mkdir(path)
    # A snapshot has the guest's memory, where the public halves of endorsement keys stand by right: one TPM without.
    crb_tpm, tis_tpm = make_tpm(crb, "--ek", "none"), make_tpm(tis)
    crb_boots = Boots(crb, cache, crb_tpm, "tpm-crb", tap.say)
    tis_boots = Boots(tis, cache, tis_tpm, "tpm-tis", tap.say)
    source = Vtpm(clones)
    parts = [] if make_tpm is Swtpm else [("clones", source, Clones(clones, cache, source, tap.say))]
    return [("tpm-crb", crb_tpm, crb_boots),
            ("tpm-crb, at rest", None, Secrecy(crb, crb_tpm, crb_boots.secret)),
            ("tpm-tis", tis_tpm, tis_boots),
            ("tpm-tis, at rest", None, Secrecy(tis, tis_tpm, tis_boots.secret)),
            ("snapshots", None, Snapshots(crb, cache, crb_tpm, tap.say)),
            ("snapshots, at rest", None, Secrecy(crb, crb_tpm, crb_boots.secret)), *parts]


def reason_to_skip(tpm):
    if os.environ.get("VTPM_TEST_GUEST") == "skip":
        return "VTPM_TEST_GUEST=skip"
    return missing() or tpm.missing()


def main():
    tap = Tap()
    make_tpm = Swtpm if os.environ.get("VTPM_GUEST_TPM") == "swtpm" else Vtpm
    with Workplace() as folder:
        reason = reason_to_skip(make_tpm(folder))
        cache = None
        if not reason:
            try:
                cache = prepare()
            except GuestError as error:
                reason = str(error).splitlines()[-1]
        for prefix, new_tpm, part in make_parts(folder, cache, make_tpm, tap):
            if reason:
                for name, _ in part.steps():
                    tap.skip(f"{prefix}: {name}", reason)
                continue
            if new_tpm:
                new_tpm.create()
            run_steps(part, lambda name, ok, detail, prefix=prefix: tap.report(f"{prefix}: {name}", ok, detail))
    print(f"1..{tap.count}", flush=True)
    return 1 if tap.failed else 0


if __name__ == "__main__":
    sys.exit(main())
